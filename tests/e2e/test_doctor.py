"""``adaspa doctor``: what works, what does not, and how to mend it."""

import json
import os
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

from adaspa_command import adaspa
from adaspa_service.local.valkey import socket_path
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
    status, found = look(*arguments, ADASPA_CATALOG=str(catalog), ADASPA_REDIS_URL=redis_url)
    assert status == 0, found
    assert "answers and is ready" in found[f"port {service.port} on 127.0.0.1"]["found"]
    assert found["Redis"]["found"].endswith("noeviction, append-only file on")
    assert "writing, listing and deleting work" in found["storage"]["found"]
    assert found["model tiny"]["state"] == found["kernels"]["state"] == found["video encoders"]["state"] == "ok"
    assert all(item["mend"] for item in found.values() if item["state"] != "ok")


def test_all_that_is_broken_is_named_with_its_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    catalog = write_catalog(tmp_path / "catalog.json", model_spec("/nowhere/model"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, found = look(
            *("--port", port, "--data-dir", tmp_path),
            ADASPA_CATALOG=str(catalog),
            ADASPA_REDIS_URL="redis://127.0.0.1:1/0",
            ADASPA_STORAGE_URL=str(tmp_path / "file" / "objects"),
            ADASPA_QUEU_CAP="3",
        )
    assert status == 1
    assert found["settings"]["state"] == "warning"
    assert found["settings"]["mend"] == "ADASPA_QUEU_CAP: did you mean ADASPA_QUEUE_CAP?"
    broken = {check for check, item in found.items() if item["state"] == "broken"}
    assert broken == {"Redis", "storage", f"port {port} on 127.0.0.1", "model tiny"}
    assert all(found[check]["mend"] for check in broken)
    assert "/nowhere/model" in found["model tiny"]["found"]


def test_code_that_is_not_installed_is_named_too(tmp_path: Path) -> None:
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith("adaspa_serve"):
            (tmp_path / entry.name).symlink_to(entry)
    code = [tmp_path, *(ROOT / part for part in ("service", "service/client", "worker", "kernels"))]
    run = "from adaspa_service.cli import main; main()"
    ended = subprocess.run(
        # Without what would find it where it is installed.
        [sys.executable, "-S", "-c", run, "doctor", "--json", "--data-dir", tmp_path / "data"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, code))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    own = next(item for item in json.loads(ended.stdout) if item["check"] == "adaspa-serve")
    assert own["state"] == "broken" and own["mend"] == "run pip install -e . in the checkout"


def test_a_wrong_setting_ends_the_look_in_plain_lines(tmp_path: Path) -> None:
    ended = adaspa("doctor", ADASPA_PORT="many")
    assert ended.returncode == 1
    last = ended.stdout.splitlines()[-1].split("\t")
    assert last[:2] == ["settings", "broken"] and "ADASPA_PORT" in last[2] and last[3]
