"""A worker's Celery application with the stand-in for its model, points to strike at, and a fast broker."""

import os
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import obstore
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.settings import get_settings
from adaspa_jobs.storage import ObjectStorage
from adaspa_jobs.store import JobStore
from adaspa_worker import app as worker
from adaspa_worker.app import app
from adaspa_worker.checkpoint import Checkpoints
from waiting import until

from chaos.grouped import FOLLOWER, GROUPED, SILENT_SECONDS, join, placed
from chaos.points import PRELOADED, SLOW_SECONDS, around, reach
from chaos.stub_engine import StubEngine

if PRELOADED in os.environ:
    import torch  # noqa: F401

current = -1
"""The seed of the job that this process runs: one at a time."""


class Points:
    """A point in each phase of an engine."""

    def encode_prompt(self, *args: Any) -> Any:
        if reach("encoding", current) == "raise":
            raise MemoryError  # what its code is called needs no import of a model's libraries
        return super().encode_prompt(*args)

    def denoise(self, params: Any, encoded: Any, on_step: Any, resume: Any = None) -> Any:
        def step(done: int, kind: Any) -> None:
            on_step(done, kind)
            if reach(f"step-{done}", current) == "await stop":
                until(lambda: bool(worker._stopping.value), "the worker is told to stop")

        if resume:  # a follower has no PyTorch, and would import it for a tensor
            resume = {**resume, "latents": np.asarray(resume["latents"])}
        return super().denoise(params, encoded, step, resume)

    def frames(self, latents: Any, check: Any) -> Any:
        pause = SLOW_SECONDS / len(latents) if reach("decoding", current) == "slow" else 0.0
        try:
            for frame in super().frames(latents, check):
                time.sleep(pause)
                yield frame
        finally:
            reach("decoded", current)


class Engine(Points, StubEngine):
    """The stand-in."""


def made() -> Callable[[], Any]:
    """What makes the engine of this worker: the stand-in in this process, or in a group of two."""
    if GROUPED not in os.environ:
        return Engine
    from adaspa_worker import group  # noqa: PLC0415  which an earlier version's worker does not have
    from adaspa_worker.engines import together  # noqa: PLC0415  PyTorch, which the other workers do without

    group.FOLLOWER, group.SILENT_SECONDS = FOLLOWER, SILENT_SECONDS
    together.join, together.placed, together.check_gpus = join, placed, lambda _: None
    leader = type("Leader", (Points, together.Together), {})
    spec = Catalog.load(get_settings().catalog).default.model_copy(update={"gpus": 2})
    return lambda: leader(spec, Path())


make = made()
"""Found here, in the process that forks those that run jobs: they begin at once."""


@lru_cache(maxsize=1)
def engine(_: str) -> Any:
    """The stand-in, for every model."""
    return make()


def claimed(lease: Any, *_: Any) -> int | None:
    """Notes which job this process runs from now on."""
    global current  # noqa: PLW0603
    current = lease.job.params.seed if lease else -1
    return current if lease else None


def written(answer: Any, _: Any, key: str, *__: Any) -> int | None:
    """The job of an upload: the video before it, the last of its files after it."""
    first, last = "video.", "spritesheet."
    return current if Path(key).name.startswith(last if answer else first) else None


def put(store: Any, key: str, *args: Any, **options: Any) -> Any:
    """Storage that may have said that it took what it did not keep."""
    answer = plain_put(store, key, *args, **options)
    if Path(key).name.startswith("video.") and (deed := reach("stored", current)):
        obstore.delete(store, key)
        if deed == "keep a part":
            plain_put(store, key, b"a part")
    return answer


plain_put = obstore.put
obstore.put = put  # type: ignore[assignment]
worker.engine = engine  # type: ignore[assignment]
around(JobStore, "claim", None, "claimed", claimed)
around(Checkpoints, "save", None, "checkpointed", lambda *_: current)
around(ObjectStorage, "put_file", "uploading", "uploaded", written)
around(JobStore, "complete", "completing", "completed", lambda *_: current)
fast_redelivery = {
    "visibility_timeout": 4,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
    "unacked_mutex_expire": 10,  # kombu's lock on the sweep: a worker that dies while it sweeps keeps it for so long
}
app.conf.update(broker_transport_options=app.conf.broker_transport_options | fast_redelivery, visibility_timeout=4)
