"""A process of a group that follows its leader: ``python -m adaspa_worker.follower FD``, started by `group.Group`.

It loads the model, runs each denoising that the leader runs, and goes on after each step only when the leader says so.
It knows of no job, no Redis and no storage. When the leader is gone it ends at once.
"""

import logging
import os
import pickle
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from adaspa_api.words import StepKind
from adaspa_jobs import logs
from adaspa_jobs.settings import get_settings

from adaspa_worker.group import ALIKE, BEAT, BEAT_SECONDS, Decode, Piece, versions
from adaspa_worker.hub import first_line
from adaspa_worker.parent import die_with_parent

log = logging.getLogger(__name__)


class Stopped(Exception):
    """Signal that the leader does not go on."""


class Leader:
    """Pipe to the leader."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._sending = connection, threading.Lock()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()

    def hear(self) -> Any:
        """Wait for the next message; the process ends when the leader is gone."""
        try:
            return pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)

    def tell(self, error: str | None) -> None:
        """Report that a piece of work has ended, and what went wrong."""
        self._send(pickle.dumps(error))

    def go_on(self, done: int, kind: StepKind | None) -> None:
        """Wait for the leader's word on a step."""
        if not self.hear():
            raise Stopped

    def send(self, place: Any, content: Any) -> None:
        """Hand a part of the work to the leader, unless it needs no more."""
        if self._connection.poll():
            raise Stopped
        self._send(pickle.dumps(Piece(place, content)))

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            self._send(BEAT)

    def _send(self, content: bytes) -> None:
        try:
            with self._sending:
                self._connection.send_bytes(content)
        except OSError:
            os._exit(0)


def follow(leader: Leader) -> None:
    """Tell the leader which versions are others here; load the model and run what it runs, until it is gone."""
    theirs, own = leader.hear(), versions()
    apart = [f"{name} {own.get(name)} and {theirs.get(name)}" for name in ALIKE if own.get(name) != theirs.get(name)]
    leader.tell(", ".join(apart))
    spec, folder, rank, store = leader.hear()
    from adaspa_worker.engines import together  # noqa: PLC0415  torch, while the leader hears beats

    engine = together.join(spec, Path(folder), rank, store)
    leader.tell(None)
    while True:
        work = leader.hear()
        error = None
        try:
            if isinstance(work, Decode):
                engine.decode_for(rank, spec.gpus, work.latents, work.given, leader.send)
            else:
                params, encoded, resume = work
                engine.denoise(params, together.placed(encoded, engine.device), leader.go_on, resume)
        except Stopped:
            pass
        except Exception as failed:
            error = f"{type(failed).__name__}: {first_line(failed)}"
        finally:
            engine.reset()
        leader.tell(error)
        if isinstance(work, Decode):
            leader.hear()  # that it needs no more


def main() -> None:
    """Die with the leader, and leave its signals to it."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure(get_settings())
    follow(Leader(Connection(int(sys.argv[1]))))


if __name__ == "__main__":
    main()
