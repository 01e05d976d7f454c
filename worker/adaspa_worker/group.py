"""Processes of a worker that make each video together: one leads and starts the others, one for each GPU.

The others hear from the leader by pipes, and all exchange tensors by torch.distributed; only the leader knows of jobs.
They live and die together: when one is dead or silent, the others are killed.
"""

import contextlib
import logging
import math
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from adaspa_jobs.catalog import ModelSpec

log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
SILENT_SECONDS = 15.0
"""A process that has beaten before, and not for so long, hangs."""
ANSWER_SECONDS = 10.0
"""Seconds that the processes may be apart when they end the same piece of work; also when they fail."""
BEAT = b"beat"
FOLLOWER = "adaspa_worker.follower"
"""Module that the others run."""
ALIKE = ("adaspa-serve", "adaspa", "torch", "diffusers")
"""Distributions; an upgrade under a running worker changes them for the processes that it starts behind it."""


class GroupFailed(Exception):
    """A process of the group died, hangs, or failed alone: the others cannot go on."""


class Piece(NamedTuple):
    """A part of the work that a process has done for the leader."""

    place: Any
    content: Any


class Decode(NamedTuple):
    """Order to decode a process's tiles of a clip.

    Args:
        latents: as the VAE has them.
        given: what else the VAE is to be given.
    """

    latents: Any
    given: list[Any]


class Group:
    """Other processes of a leader's group; a process leads one at most.

    Args:
        spec: the catalog entry of their model.
        folder: of the model.
    """

    current: "Group | None" = None

    def __init__(self, spec: ModelSpec, folder: Path) -> None:
        self.failure: GroupFailed | None = None
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._pieces: queue.Queue[Any] = queue.Queue()
        self._error: tuple[float, str] | None = None
        """Time at which one of the others failed in the work at hand, and how."""
        self._settles_until = -math.inf
        self._closed = threading.Event()
        self._place = TemporaryDirectory(prefix="adaspa-group-")
        self.store = Path(self._place.name) / "store"
        """File by which torch.distributed brings them together."""
        self.processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection] = []
        for rank in range(1, spec.gpus):
            ours, theirs = Pipe()
            line = [sys.executable, "-m", FOLLOWER, str(theirs.fileno())]
            self.processes.append(subprocess.Popen(line, pass_fds=[theirs.fileno()]))
            theirs.close()
            self._connections.append(ours)
            ours.send_bytes(pickle.dumps(versions()))
            ours.send_bytes(pickle.dumps((spec, folder, rank, self.store)))
        self._watcher = threading.Thread(target=self._watch, name="group", daemon=True)
        self._watcher.start()
        Group.current = self

    def tell(self, message: object) -> None:
        """Send a message to all.

        Raises:
            GroupFailed: one of them is not there any more.
        """
        content = pickle.dumps(message)
        try:
            for connection in self._connections:
                connection.send_bytes(content)
        except OSError:
            self._fail("a process of the group has ended")
        if self.failure is not None:
            raise self.failure

    def settle(self, seconds: float = ANSWER_SECONDS) -> list[str]:
        """Wait until all have ended what this process has ended; what went wrong in them.

        Raises:
            GroupFailed: they have not within this time, or no longer exist.
        """
        until, errors = time.monotonic() + seconds, []
        self._settles_until = until
        for _ in self._connections:
            try:
                answer = self._answers.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                answer = None
                self._fail(f"a process of the group did not end within {seconds:.0f} s after the leader")
            if self.failure is not None:
                raise self.failure
            errors += [answer] if answer else []
        while not self._pieces.empty():  # of work that was broken off
            self._pieces.get()
        self._error, self._settles_until = None, -math.inf
        return errors

    def pieces(self, check: Callable[[], None]) -> Iterator[Any]:
        """Yield what the others send of their work, as it comes.

        Args:
            check: called now and then while nothing comes.

        Raises:
            GroupFailed: one of them failed, or no longer exists.
        """
        while True:
            try:
                yield self._pieces.get(timeout=BEAT_SECONDS)
            except queue.Empty:
                check()
                if self.failure is not None:
                    raise self.failure from None
                if self._error is not None:
                    raise GroupFailed(self._error[1]) from None

    def close(self) -> None:
        """Kill the others, and wait for their end."""
        self._closed.set()
        self._kill()
        self._watcher.join()
        for connection in self._connections:
            connection.close()
        self._place.cleanup()
        if Group.current is self:
            Group.current = None

    def _watch(self) -> None:
        """Hear of beats, answers and deaths until the group ends."""
        heard: dict[Connection, float] = {}
        left = list(self._connections)
        while left and not self._closed.is_set():
            for connection in wait(left, timeout=BEAT_SECONDS):
                assert isinstance(connection, Connection)
                rank = 1 + self._connections.index(connection)
                try:
                    content = connection.recv_bytes()
                except (EOFError, OSError):
                    left.remove(connection)
                    self._fail(f"process {rank} of the group died")
                    continue
                heard[connection] = time.monotonic()
                if content != BEAT:
                    self._take(rank, pickle.loads(content))
            now, settles = time.monotonic(), self._settles_until  # read before the error, which goes before it
            if (error := self._error) is not None and now > max(error[0] + ANSWER_SECONDS, settles):
                self._fail(error[1])  # alone: the leader waits in an exchange that does not come
            for connection, at in heard.items():
                if now - at > SILENT_SECONDS:
                    rank = 1 + self._connections.index(connection)
                    self._fail(f"process {rank} of the group was silent for {SILENT_SECONDS:.0f} s")

    def _take(self, rank: int, answer: Any) -> None:
        """Keep what one of the others says for whoever waits for it."""
        if isinstance(answer, Piece):
            self._pieces.put(answer)
            return
        if answer and self._error is None:
            self._error = time.monotonic(), f"process {rank} of the group failed: {answer}"
        self._answers.put(answer)

    def _fail(self, reason: str) -> None:
        """Note why the group cannot go on, and kill the others: what the leader exchanges with them then breaks off."""
        if self.failure is None and not self._closed.is_set():
            self.failure = GroupFailed(f"{reason}; stopping the group")
            log.error("%s", self.failure)
            self._kill()
            for _ in self._connections:
                self._answers.put(None)  # wakes who waits for them

    def _kill(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()


def versions() -> dict[str, str]:
    """Packages that the processes of a group must have alike, if installed."""
    found = {}
    for name in ALIKE:
        with contextlib.suppress(PackageNotFoundError):  # run from a checkout
            found[name] = version(name)
    return found


def failure() -> GroupFailed | None:
    """Say why this process's group cannot go on; None while it can, or if there is none."""
    return None if Group.current is None else Group.current.failure
