"""Commands of the service as processes, each forked from one that has imported them: that saves it a second."""

import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

SECONDS = 120
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["__main__", "adaspa_service.cli", "adaspa_service.gateway.__main__"])


def run(main: Callable[[], object], line: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, without a terminal.

    Args:
        main: its entry point.
        line: its name and arguments.
        env: its whole environment.
    """
    with TemporaryDirectory(prefix="adaspa-test-") as name:
        said = Path(name) / "stdout", Path(name) / "stderr"
        process = FORKS.Process(target=_run, args=(main, line, env, said))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(line, SECONDS)
        return subprocess.CompletedProcess(line, process.exitcode, *(path.read_text() for path in said))


def _run(main: Callable[[], object], line: list[str], env: dict[str, str], said: tuple[Path, Path]) -> None:
    os.environ.clear()
    os.environ.update(env)
    for number, path in enumerate(said, start=1):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    sys.argv = line
    main()
