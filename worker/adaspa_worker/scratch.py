"""A worker's temporary files: a folder for each attempt, and what a process that was killed left of them."""

import shutil
import tempfile
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory


def scratch(worker: str) -> "TemporaryDirectory[str]":
    """A folder for an attempt of this worker, removed after the ``with`` block."""
    return TemporaryDirectory(prefix=_prefix(worker))


def clear(worker: str) -> None:
    """Remove the folders of this worker's earlier processes: videos, and a disk fills up."""
    prefix = _prefix(worker)
    for folder in Path(tempfile.gettempdir()).glob(f"{escape(prefix)}*"):
        if "-" not in folder.name.removeprefix(prefix):  # else of a worker whose name begins like this one's
            shutil.rmtree(folder, ignore_errors=True)


def _prefix(worker: str) -> str:
    return f"adaspa-{worker}-"
