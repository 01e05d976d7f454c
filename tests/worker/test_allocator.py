"""What a worker may use of a GPU, and that gaps between what a job holds do not stop one that fits by its peak."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from adaspa_jobs.settings import get_settings
from adaspa_worker import allocator
from adaspa_worker.memory_limit import SPARE, memory_limit
from waiting import PATIENCE, until

CHOSEN = "max_split_size_mb:128"
HOLES = """
from adaspa_worker import allocator
allocator.use()
import torch
PIECE, COUNT = 100 * 2**20, 20
total = torch.cuda.get_device_properties(0).total_memory
torch.cuda.set_per_process_memory_fraction(1.1 * PIECE * COUNT / total)
whole = torch.empty(PIECE * COUNT, dtype=torch.uint8, device="cuda")
del whole
pieces = [torch.empty(PIECE, dtype=torch.uint8, device="cuda") for _ in range(COUNT)]
del pieces[::2]
torch.empty(PIECE * COUNT // 2, dtype=torch.uint8, device="cuda")
"""
"""Half of the room is free, in pieces, and wanted as a whole."""


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """No variable says anything; what the test sets is gone after it."""
    for variable in allocator.VARIABLES:
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    known = get_settings, memory_limit
    for each in known:
        each.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    for each in known:
        each.cache_clear()


@pytest.mark.parametrize("variable", [None, "PYTORCH_ALLOC_CONF"])
def test_a_worker_and_its_child_have_segments_that_grow_unless_the_operator_chose(
    redis_url: str, tmp_path: Path, unset: pytest.MonkeyPatch, variable: str | None
) -> None:
    environment = os.environ | {
        "ADASPA_REDIS_URL": redis_url,
        "ADASPA_STORAGE_URL": str(tmp_path / "objects"),
        "ADASPA_HEARTBEAT_FILE": str(tmp_path / "heartbeat"),
        "ADASPA_WARM": "false",
        **({variable: CHOSEN} if variable else {}),
    }
    log = tmp_path / "worker.log"
    with log.open("wb") as out:
        worker = subprocess.Popen([sys.executable, "-m", "adaspa_worker"], env=environment, stdout=out, stderr=out)
    try:
        until(lambda: (tmp_path / "heartbeat").exists() or worker.poll() is not None, "the worker takes jobs")
        assert worker.poll() is None, log.read_text()
        children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
        assert children
        for process in (worker.pid, *children):
            found = Path(f"/proc/{process}/environ").read_text().split("\0")
            told = [entry for entry in found if entry.startswith(allocator.VARIABLES)]
            assert told == [f"{variable}={CHOSEN}" if variable else f"PYTORCH_CUDA_ALLOC_CONF={allocator.GROWING}"]
    finally:
        worker.terminate()
        worker.wait(PATIENCE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="it is a GPU's memory")
@pytest.mark.usefixtures("unset")
def test_what_is_free_in_pieces_serves_as_a_whole() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_of_a_gpus_limit_a_share_is_left_to_gaps(unset: pytest.MonkeyPatch) -> None:
    """Of a set limit, too, to which PyTorch keeps with its gaps; a CPU has none."""
    unset.setenv("ADASPA_WORKER_MEMORY_BYTES", "1000000000")
    share = SPARE if torch.cuda.is_available() else 0
    try:
        assert memory_limit() == int(1_000_000_000 * (1 - share))
    finally:
        if torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(1.0)
