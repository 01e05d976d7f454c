"""The ``adaspa`` command as a process."""

import os
import subprocess
import sys
from pathlib import Path

ADASPA = Path(sys.executable).with_name("adaspa")
NOWHERE = "http://127.0.0.1:1"


def clean_environment(**extra: str) -> dict[str, str]:
    """The environment without the developer's own settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ADASPA_")} | extra


def adaspa(*arguments: object, server: str = NOWHERE, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, in a pipe; ``extra`` are environment variables."""
    command = [ADASPA, *map(str, arguments)]
    env = clean_environment(ADASPA_SERVER=server, **extra)
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL
    )
