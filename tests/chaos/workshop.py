"""A worker of its own for scenes of its parts: a runner with a store, a storage, and a stand-in for a model."""

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import redis
from adaspa_jobs.job import JobParams
from adaspa_jobs.storage import ObjectStorage
from adaspa_jobs.store import JobStore
from adaspa_worker.runner import Runner
from admitting import create
from drawn import corners
from valkey_process import running_valkey

from chaos.stub_engine import StubEngine

ASKED: dict[str, Any] = {
    **{"model": "stub", "prompt": "a red circle", "width": 64, "height": 64, "num_frames": 9, "fps": 8},
    **{"steps": 6, "guidance_scale": 4.0, "seed": 1},
}


def params(**changes: Any) -> JobParams:
    return JobParams.model_validate(ASKED | changes)


def fading(count: int, width: int = 64, height: int = 64) -> list[np.ndarray]:
    """Frames that tell which one they are: each darker than the one before."""
    first = np.asarray(corners(width, height)).astype(float)
    return [(first * (1 - 0.6 * at / max(count - 1, 1))).astype(np.uint8) for at in range(count)]


@contextmanager
def bench(kind: Callable[..., Any] | None = None, **changes: Any) -> Iterator[Any]:
    """A worker's runner with a store and a storage of its own, and the stand-in for a model."""
    with (
        running_valkey("--appendonly", "yes", "--appendfsync", "always") as folder,
        redis.Redis(unix_socket_path=f"{folder}/valkey.sock") as client,
    ):
        yield (kind or Workshop)(client, folder, **changes)


class Workshop:
    """What a scene of a worker needs."""

    def __init__(self, client: redis.Redis, folder: Path, **changes: Any) -> None:
        self.store = JobStore(client, max_attempts=3)
        self.storage = ObjectStorage(str(folder / "objects"))
        self.engine = StubEngine()
        self.name = f"by-hand-{secrets.token_hex(4)}"
        self.ended = threading.Event()
        self.stopping = threading.Event()
        own = {"store": self.store, "storage": self.storage, "engine": lambda _: self.engine, "name": self.name}
        own |= {"stopping": self.stopping.is_set, "end_process": self.ended.set, "hear_seconds": 0.2}
        own |= {
            "time_limit_seconds": 60.0,
            "back_off_seconds": (0.0,),
            "checkpoint_steps": 2,
            "checkpoint_seconds": 600.0,
        }
        self.runner = Runner(**(own | changes))

    def run(self, **asked: Any) -> Any:
        job = create(self.store, params(**asked))
        self.runner.run("stub")
        assert self.engine.snapshot() is None, "the engine still holds what it made of a job that is over"
        return self.store.get(job.id)


def raising(error: Exception) -> Callable[..., Any]:
    """A function that only raises."""

    def function(*_: Any, **__: Any) -> Any:
        raise error

    return function
