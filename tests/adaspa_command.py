"""The ``adaspa`` command as a process."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import forked
from adaspa_service.cli import main
from waiting import PATIENCE

ADASPA = Path(sys.executable).with_name("adaspa")
NOWHERE = "http://127.0.0.1:1"


def clean_environment(**extra: str) -> dict[str, str]:
    """The environment without the developer's own settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ADASPA_")} | extra


def adaspa(*arguments: object, server: str = NOWHERE, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, without a terminal; ``extra`` are environment variables."""
    return forked.run(main, ["adaspa", *map(str, arguments)], clean_environment(ADASPA_SERVER=server, **extra))


def in_terminal(*arguments: object, server: str = NOWHERE, answer: str | None = None, **extra: str) -> tuple[int, str]:
    """Exit status of the command in a terminal of 80 columns, and what it shows; it is given an answer if it asks."""
    leader, follower = pty.openpty()
    env = clean_environment(ADASPA_SERVER=server, TERM="xterm-256color", COLUMNS="80", **extra)
    streams = {"stdin": subprocess.DEVNULL if answer is None else follower, "stdout": follower, "stderr": follower}
    process = subprocess.Popen([ADASPA, *map(str, arguments)], env=env, **streams)
    os.close(follower)
    if answer is not None:
        os.write(leader, f"{answer}\n".encode())
    shown = b""
    try:
        while chunk := os.read(leader, 65536):
            shown += chunk
    except OSError:  # its last writer is gone
        pass
    os.close(leader)
    return process.wait(timeout=PATIENCE), shown.decode()
