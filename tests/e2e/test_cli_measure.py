"""``adaspa compare`` and ``adaspa bench`` on the tiny model, with its real worker."""

import json
from pathlib import Path

import av
import pytest
from adaspa_command import adaspa
from service_process import Service
from tiny_wan import SIZE


@pytest.fixture
def here(catalog: Path) -> dict[str, str]:
    """The environment of a command that loads the tiny model itself."""
    return {"ADASPA_CATALOG": str(catalog)}


def test_compare_writes_both_side_by_side_with_times_and_metrics(service: Service, tmp_path: Path) -> None:
    target = tmp_path / "compare.mp4"
    asked = ("compare", "a red circle", "-o", target, "--seed", 7, "--sparsity", 0.5)
    ended = adaspa(*asked, "--json", server=f"http://127.0.0.1:{service.port}")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["dense"]["quality"], found["adaspa"]["sparsity"]) == ("exact", 0.5)
    assert found["dense"]["seed"] == found["adaspa"]["seed"] == 7
    assert 5 < found["psnr_db"] <= 100 and 0 < found["ssim"] <= 1 and found["speedup"] > 0
    with av.open(str(target)) as container:
        stream = container.streams.video[0]
        assert stream.width > 2 * SIZE and stream.height > SIZE
        assert sum(1 for _ in container.decode(stream)) == found["dense"]["num_frames"]
    assert [path.name for path in tmp_path.iterdir()] == ["compare.mp4"]


def test_compare_without_a_server_says_it_in_lines(here: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "compare.mp4"
    ended = adaspa("compare", "a red circle", "-o", target, "--local", "--quality", "exact", **here)
    assert ended.returncode == 0, ended.stderr
    assert "PSNR 100.00 dB, SSIM 1.0000" in ended.stdout  # the same twice
    assert "times as fast" in ended.stdout and f"Wrote {target} (seed " in ended.stdout


def test_bench_of_the_kernels_says_that_it_needs_a_gpu() -> None:
    ended = adaspa("bench", CUDA_VISIBLE_DEVICES="")
    assert ended.returncode == 1 and ended.stderr == "adaspa: bench: a GPU is needed\n"
