"""The ``adaspa`` command as a process."""

import os
import subprocess
import sys
from pathlib import Path

import forked
from adaspa_service.cli import main

ADASPA = Path(sys.executable).with_name("adaspa")
NOWHERE = "http://127.0.0.1:1"


def clean_environment(**extra: str) -> dict[str, str]:
    """The environment without the developer's own settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ADASPA_")} | extra


def adaspa(*arguments: object, server: str = NOWHERE, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, without a terminal; ``extra`` are environment variables."""
    return forked.run(main, ["adaspa", *map(str, arguments)], clean_environment(ADASPA_SERVER=server, **extra))
