"""The stand-in for a model as two processes make it together: the leader's and the follower's side.

The group, its pipes and its beats are the worker's own. What two processes of a model would exchange in each step is a
byte over a socket here: whoever is dead or stands still keeps the other from going on.
"""

from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from chaos.stub_engine import StubEngine

GROUPED = "CHAOS_GROUPED"
"""Set for a worker whose engine is a group."""
FOLLOWER = "chaos.follower"
SILENT_SECONDS = 8.0
"""A busy machine may leave a follower without its turn for some seconds."""


class Sharing(StubEngine):
    """One process of a group."""

    device = "cpu"

    def __init__(self, meet: Callable[[], Connection]) -> None:
        super().__init__()
        self._meet = meet
        self._other: Connection | None = None

    def denoise(self, params: Any, encoded: Any, on_step: Any, resume: Any = None) -> Any:
        if self._other is None:
            self._other = self._meet()
        other = self._other

        def step(done: int, kind: Any) -> None:
            try:
                other.send(done)
                assert other.recv() == done, "the processes are at different steps"
            except (EOFError, OSError) as error:
                raise RuntimeError("the other process has gone") from error
            on_step(done, kind)

        return super().denoise(params, encoded, step, resume)


def join(spec: Any, folder: Path, rank: int, store: Path) -> Sharing:
    """In the place of `adaspa_worker.engines.together.join`."""
    if rank:
        return Sharing(lambda: Client(str(store), "AF_UNIX"))
    return Sharing(Listener(str(store), "AF_UNIX").accept)


def placed(encoded: SimpleNamespace, device: Any) -> SimpleNamespace:
    """In the place of `adaspa_worker.engines.together.placed`."""
    return encoded
