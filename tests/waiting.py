"""Waiting for an event: patient, because a machine that is busy is no failure."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PATIENCE = 600.0
"""Seconds within which anything comes, on a machine however busy; what takes longer hangs."""


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait for a condition; AssertionError names it when it does not come."""
    deadline, pause = time.monotonic() + seconds, 0.01
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(pause)
        pause = min(pause * 1.25, 0.1)  # asking, often over HTTP, takes time from what is waited for


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
