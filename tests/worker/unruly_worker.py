"""A worker's Celery application with an engine that does what the prompt says: hang, kill its process, or just fail.

Its warm-up does what ``UNRULY_WARM_UP`` says: kill its process, fail, or wait for a file of that path.
"""

import os
import signal
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from adaspa_jobs.job import JobParams
from adaspa_worker import app as worker
from adaspa_worker import heartbeat
from adaspa_worker import runner as runner_module
from adaspa_worker.app import app
from adaspa_worker.lease import LeaseKeeper

__all__ = ["app"]


class Unruly:
    """As much of an engine as a job meets that does not come far."""

    def checked(self, _: object) -> AbstractContextManager[None]:
        return nullcontext()

    def encode_prompt(self, params: JobParams, images: object) -> dict[str, Any]:
        if params.prompt == "hang":
            assert 0 < keepers[-1].deadline - time.monotonic() <= float(os.environ["ADASPA_TIME_LIMIT_SECONDS"])
            keepers[-1].deadline = time.monotonic()  # so long has it hung
            time.sleep(600)
        if params.prompt == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        raise MemoryError  # whose code needs no torch, which takes seconds to import

    def preview(self) -> None:
        """There is nothing to see."""

    def snapshot(self) -> None:
        """There is nothing to resume from."""

    def reset(self) -> None:
        """Nothing is held."""


keepers: list[LeaseKeeper] = []


class Kept(LeaseKeeper):
    """The keeper of a job, whose time the job itself can end."""

    def __enter__(self) -> LeaseKeeper:
        keepers.append(self)
        return super().__enter__()


made = worker.runner


@lru_cache(maxsize=1)
def runner() -> Any:
    """The usual one, which has less patience."""
    return replace(made(), engine=lambda _: Unruly(), unwind_seconds=1.0)


def load_warm() -> None:
    """As the environment says."""
    match os.environ["UNRULY_WARM_UP"]:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "fail":
            raise MemoryError("no room for the model")
        case path:
            print("the model is loading", flush=True)
            while not Path(path).exists():
                time.sleep(0.02)


worker.runner, worker.load_warm = runner, load_warm
runner_module.LeaseKeeper = Kept  # type: ignore[misc]
heartbeat.EVERY_SECONDS = 0.5
