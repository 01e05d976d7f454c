"""The same measurement on another commit, in the same run: only so do figures of a shared machine compare."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]
ROOMS = ("", "kernels", "service", "service/client", "worker", "tests")
EARLIER = """
import {package}.measures as measures
from {package}.__main__ import main
measures.FOLLOWERS = {streams}
main()
"""
"""Earlier commits follow 200 jobs and take no argument for that; the first ones have their load in ``tests``."""


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A commit's files in a folder that is gone afterwards."""
    with TemporaryDirectory(prefix="beside-") as name:
        tree = Path(name) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, commit], cwd=ROOT, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


def measure(tree: Path, only: str, streams: int, options: list[str]) -> list[dict[str, Any]]:
    """The figures of one measure, taken by a commit's own program with that commit's packages.

    Args:
        tree: its files.
        only: the measure.
        streams: event streams that are open meanwhile.
        options: of its command line.
    """
    package = "benchmarks.load" if (tree / "benchmarks").exists() else "load"
    path = os.pathsep.join(str(tree / room) for room in ROOMS)
    with TemporaryDirectory(prefix="load-") as name:
        out = Path(name) / "figures.json"
        command = [sys.executable, "-c", EARLIER.format(package=package, streams=streams), *options]
        environment = os.environ | {"PYTHONPATH": path}
        subprocess.run([*command, "--only", only, "--out", out], cwd=tree, env=environment, check=True)
        found: list[dict[str, Any]] = json.loads(out.read_text())[only]
    return found
