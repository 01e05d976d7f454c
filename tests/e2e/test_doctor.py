"""``adaspa doctor``: what works, what does not, and how to mend it."""

import json
import os
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from adaspa_command import adaspa, clean_environment
from adaspa_service.local.valkey import socket_path
from adaspa_worker import doctor_gpus
from service_process import Service
from tiny_wan import model_spec, write_catalog

ROOT = Path(__file__).parents[2]


def look(*arguments: object, **env: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit status, and the findings by what was looked at."""
    ended = adaspa("doctor", "--json", *arguments, **env)
    return ended.returncode, {item["check"]: item for item in json.loads(ended.stdout)}


def test_beside_a_running_service_nothing_is_broken(service: Service, catalog: Path) -> None:
    redis_url = f"unix://{socket_path(service.data_dir)}?db=0"
    arguments = ("--port", service.port, "--data-dir", service.data_dir)
    env = {"CATALOG": str(catalog), "REDIS_URL": redis_url, "WORKER_MEMORY_BYTES": "90000"}
    status, found = look(*arguments, **{f"ADASPA_{name}": value for name, value in env.items()})
    assert status == 0, found
    assert found["memory of tiny"]["state"] == "warning" and "frames" in found["memory of tiny"]["found"]
    assert "answers and is ready" in found[f"port {service.port} on 127.0.0.1"]["found"]
    assert found["Redis"]["found"].endswith("noeviction, append-only file on")
    assert "writing, listing and deleting work" in found["storage"]["found"]
    assert found["model tiny"]["state"] == found["kernels"]["state"] == found["video encoders"]["state"] == "ok"
    if not torch.cuda.is_available():
        assert found["GPUs together"]["found"].startswith("no GPU here: no exchange to measure")
    assert all(item["mend"] for item in found.values() if item["state"] != "ok")


def test_all_that_is_broken_is_named_with_its_mend(tmp_path: Path) -> None:
    """With code that is not installed."""
    (packages := tmp_path / "packages").mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith("adaspa_serve"):
            (packages / entry.name).symlink_to(entry)
    (tmp_path / "file").write_text("not a folder")
    code = [packages, *(ROOT / part for part in ("service", "service/client", "worker", "kernels"))]
    env = clean_environment(
        ADASPA_CATALOG=str(write_catalog(tmp_path / "catalog.json", model_spec("/nowhere/model"))),
        ADASPA_REDIS_URL="redis://127.0.0.1:1/0",
        ADASPA_STORAGE_URL=str(tmp_path / "file" / "objects"),
        ADASPA_QUEU_CAP="3",
        PYTHONPATH=os.pathsep.join(map(str, code)),
    )
    run = "from adaspa_service.cli import main; main()"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = subprocess.run(
            # Without what would find it where it is installed.
            [sys.executable, "-S", "-c", run, "doctor", "--json", "--port", str(port), "--data-dir", tmp_path / "data"],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == 1, ended.stderr
    found = {item["check"]: item for item in json.loads(ended.stdout)}
    assert found["settings"]["state"] == "warning"
    assert found["settings"]["mend"] == "ADASPA_QUEU_CAP: did you mean ADASPA_QUEUE_CAP?"
    broken = {check for check, item in found.items() if item["state"] == "broken"}
    assert broken == {"adaspa-serve", "Redis", "storage", f"port {port} on 127.0.0.1", "model tiny"}
    assert all(found[check]["mend"] for check in broken)
    assert found["adaspa-serve"]["mend"] == "run pip install -e . in the checkout"
    assert "/nowhere/model" in found["model tiny"]["found"]


def test_a_wrong_setting_ends_the_look_in_plain_lines(tmp_path: Path) -> None:
    ended = adaspa("doctor", ADASPA_PORT="many")
    assert ended.returncode == 1
    last = ended.stdout.splitlines()[-1].split("\t")
    assert last[:2] == ["settings", "broken"] and "ADASPA_PORT" in last[2] and last[3]


MATRIX = """        GPU0    GPU1    GPU2    CPU Affinity    NUMA Affinity
GPU0     X      NV18    SYS     0-47    0
GPU1    NV18     X      SYS     0-47    0
GPU2    SYS     SYS      X      48-95   1

Legend:
  NV#  = Connection traversing a bonded set of # NVLinks
"""


def test_how_gpus_are_linked_is_read_from_what_nvidia_smi_says() -> None:
    assert doctor_gpus.linked(MATRIX, 2) == "NVLink, 18 links a pair"
    assert doctor_gpus.linked(MATRIX, 3) == "not all by NVLink (NV18, SYS)"
    assert doctor_gpus.linked("", 2) == doctor_gpus.linked(MATRIX, 4) == "linked in a way that nvidia-smi does not tell"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_exchange_of_two_gpus_is_measured() -> None:
    state, told, _ = doctor_gpus.found()
    assert " GB/s from one to another" in told and (state == "ok") is (doctor_gpus.gigabytes_a_second(0, 1) > 50)
