"""A supervised child process: its log, its restarts, and its tie to the supervisor's life."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_PDEATHSIG = 1
BACK_OFF_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_SECONDS = 120.0
"""Run time after which a child's back-off starts over."""
# Looked up before any fork: between fork and exec nothing may allocate or import.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def tied(orphan_signal: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """Return a ``preexec_fn`` that makes the kernel signal the process when the thread that started it ends."""
    parent, number = os.getpid(), int(orphan_signal)

    def tie() -> None:
        if _prctl is not None:
            _prctl(PR_SET_PDEATHSIG, number)
            if os.getppid() != parent:
                os._exit(1)

    return tie


@dataclass
class Child:
    """A program that runs for as long as the supervisor does.

    It has a process group of its own, so that Ctrl-C in the terminal reaches only the supervisor, and the kernel
    signals it when the supervisor dies, however that happens. Start it from the main thread: the kernel ties it to
    the thread that forked it.

    Args:
        name: name shown to the user and used for the log file.
        command: program and arguments.
        log_dir: folder of ``<name>.log``, which is appended to.
        environment: the whole environment.
        ready: returns True once the child works; a child that ends before has failed to start.
        orphan_signal: signal that the kernel sends when the supervisor dies.
        start_seconds: time limit for becoming ready.
        stop_seconds: time limit for ending after SIGTERM, before the whole group is killed.
        keep_open: file descriptors to inherit.
    """

    name: str
    command: Sequence[str]
    log_dir: Path
    environment: Mapping[str, str]
    ready: Callable[[], bool]
    orphan_signal: signal.Signals = signal.SIGKILL
    start_seconds: float = 60.0
    stop_seconds: float = 10.0
    keep_open: tuple[int, ...] = ()
    was_ready: bool = field(default=False, init=False)
    restarts: int = field(default=0, init=False)
    restart_at: float | None = field(default=None, init=False)
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def log(self) -> Path:
        """File that takes the child's standard output and error."""
        return self.log_dir / f"{self.name}.log"

    def start(self) -> None:
        """Start the program without waiting for it to be ready."""
        self.was_ready, self.restart_at, self._started = False, None, time.monotonic()
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self.environment),
                start_new_session=True,
                preexec_fn=tied(self.orphan_signal),  # noqa: PLW1509
                pass_fds=self.keep_open,
            )

    def is_ready(self) -> bool:
        """Return whether the program is running and ready."""
        if not self.was_ready and self.exit_status() is None:
            self.was_ready = self.ready()
        return self.was_ready

    def exit_status(self) -> int | None:
        """Return the exit status (negative: a signal's number), or None while the program runs."""
        return self.process.poll() if self.process else None

    def last_words(self) -> str:
        """Return what ended the program: a signal's name, or the last line that it logged."""
        if (status := self.exit_status() or 0) < 0:
            return signal.Signals(-status).name
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self.exit_status()}, nothing logged to {self.log}"

    def schedule_restart(self) -> float:
        """Schedule the next start and return the seconds until then, which grow each time."""
        if time.monotonic() - self._started > STEADY_SECONDS:
            self.restarts = 0
        delay = BACK_OFF_SECONDS[min(self.restarts, len(BACK_OFF_SECONDS) - 1)]
        self.restarts += 1
        self.restart_at = time.monotonic() + delay
        return delay

    def stop(self, hurry: Callable[[], bool]) -> None:
        """End the program: SIGTERM, then SIGKILL to its group after ``stop_seconds`` or once ``hurry()`` is True."""
        if self.process is None:
            return
        deadline = time.monotonic() + self.stop_seconds
        if self.process.poll() is None:
            self.process.terminate()
        while self.process.poll() is None and time.monotonic() < deadline and not hurry():
            time.sleep(0.05)
        with suppress(ProcessLookupError):  # the usual case: the whole group has ended
            os.killpg(self.process.pid, signal.SIGKILL)  # also takes what a killed leader left behind
        self.process.wait()
