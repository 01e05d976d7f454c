"""How many jobs go through one Valkey, by what each costs its thread: of this commit, or of another one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.load.beside import ROOMS
from benchmarks.redis_server import Server

PROGRAM = Path(__file__).with_name("through.py")
SHAPES: tuple[dict[str, Any], ...] = (
    {"steps": 50, "step_seconds": 0.1},
    {"steps": 8, "step_seconds": 0.2},
    {"steps": 50},
)
"""Jobs that are measured whole; the last run, and come to no step meanwhile."""


def through_one(tree: Path, jobs: int) -> list[dict[str, Any]]:
    """The figures of each shape, with the packages of the commit in a folder.

    All commits get the server of this one, with the ``appendfsync`` of our chart and compose file.
    """
    return [shape | _measured(tree, jobs, shape) for shape in SHAPES]


def _measured(tree: Path, jobs: int, shape: dict[str, Any]) -> dict[str, Any]:
    path = os.pathsep.join(str(tree / room) for room in ROOMS)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ADASPA_")}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in shape.items()]
    with TemporaryDirectory(prefix="load-") as name:
        server = Server(Path(name))
        try:
            server.client.config_set("appendfsync", "everysec")
            places = [f"unix://{server.socket}?db=0", str(Path(name) / "objects")]
            command = [sys.executable, str(PROGRAM), *places, *options, f"--jobs={jobs}"]
            told = subprocess.run(
                command, cwd=name, env=clean | {"PYTHONPATH": path}, check=True, stdout=subprocess.PIPE
            )
        finally:
            server.stop()
    found: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return found
