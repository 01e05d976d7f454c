"""Programs of the service as processes, each forked from one that has imported them: that saves it a second."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from waiting import PATIENCE

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["__main__", "adaspa_service.cli", "adaspa_service.gateway.__main__"])


class Started:
    """A program that runs, with what ``subprocess.Popen`` has for it.

    Args:
        main: its entry point.
        line: its name and arguments.
        env: its whole environment.
        stdout: file, or terminal, for what it says.
        stderr: the same for its errors.
    """

    def __init__(
        self, main: Callable[[], object], line: list[str], env: dict[str, str], stdout: Path, stderr: Path
    ) -> None:
        self.line = line
        self.process = FORKS.Process(target=_run, args=(main, line, env, (stdout, stderr)))
        self.process.start()

    def poll(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The same once it has ended; subprocess.TimeoutExpired if it does not."""
        self.process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(self.line, timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None and self.process.pid:
            os.kill(self.process.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(main: Callable[[], object], line: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, without a terminal; arguments as of `Started`."""
    with TemporaryDirectory(prefix="adaspa-test-") as name:
        said = Path(name) / "stdout", Path(name) / "stderr"
        started = Started(main, line, env, *said)
        try:
            status = started.wait(PATIENCE)
        finally:
            started.kill()
            started.wait()
        return subprocess.CompletedProcess(line, status, *(path.read_text() for path in said))


def _run(main: Callable[[], object], line: list[str], env: dict[str, str], said: tuple[Path, Path]) -> None:
    os.environ.clear()
    os.environ.update(env)
    for number, path in enumerate(said, start=1):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    sys.argv = line
    main()
