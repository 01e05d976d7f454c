"""A worker's Celery application with an engine that does what the prompt says: hang, kill its process, or just fail."""

import os
import signal
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import Any

from adaspa_jobs.job import JobParams
from adaspa_worker import app as worker
from adaspa_worker import heartbeat
from adaspa_worker.app import app

__all__ = ["app"]


class Unruly:
    """As much of an engine as a job meets that does not come far."""

    def checked(self, _: object) -> AbstractContextManager[None]:
        return nullcontext()

    def encode_prompt(self, params: JobParams, images: object) -> dict[str, Any]:
        if params.prompt == "hang":
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


made = worker.runner


@lru_cache(maxsize=1)
def runner() -> Any:
    """The usual one, which has less patience."""
    return replace(made(), engine=lambda _: Unruly(), unwind_seconds=1.0)


worker.runner = runner
heartbeat.EVERY_SECONDS = 0.5
