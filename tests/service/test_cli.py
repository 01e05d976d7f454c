"""The ``adaspa`` command as a process, against a real gateway."""

import json
import os
import subprocess
import sys
from pathlib import Path

from running_gateway import Service

ADASPA = Path(sys.executable).with_name("adaspa")


def adaspa(*arguments: object, server: str = "http://127.0.0.1:1") -> subprocess.CompletedProcess[str]:
    """Run the command to its end, in a pipe."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ADASPA_")}
    command = [ADASPA, *map(str, arguments)]
    env = clean | {"ADASPA_SERVER": server}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_models_as_lines_and_as_json(service: Service) -> None:
    service.create()
    lines = adaspa("models", server=service.url).stdout.splitlines()
    assert lines == ["demo\t128x128\t33\t1-100 (24)\t1-10 (4)\t1\t0"]
    (model,) = json.loads(adaspa("models", "--json", server=service.url).stdout)
    assert model["default_steps"] == 24


def test_a_server_that_does_not_answer_has_its_own_status() -> None:
    ended = adaspa("models")
    assert ended.returncode == 3
    assert ended.stderr.startswith("adaspa: ") and ended.stderr.count("\n") == 1


def test_an_address_that_is_none_is_wrong_usage() -> None:
    ended = adaspa("models", "--server", "localhost")
    assert ended.returncode == 2 and "--server" in ended.stderr
