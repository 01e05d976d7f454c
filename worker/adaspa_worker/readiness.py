"""Readiness of a worker for jobs: with a GPU only once its model is loaded and a short clip went through it.

The child warms up, in the beginning of its process; the parent waits before it connects to Redis, so that no job is
announced for, or taken by, a worker that would keep it waiting. Both see the state in memory that they share. A later
child, in the place of one that was killed, warms up too, and its worker is not announced meanwhile.
"""

import ctypes
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from multiprocessing.sharedctypes import RawValue

from adaspa_jobs.settings import Settings

from adaspa_worker.hub import first_line

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1


class State(IntEnum):
    """State of the child."""

    begun = 0
    warming = 1
    ready = 2
    failed = 3


class Readiness:
    """State of a worker's child, for parent and child; to be made before the parent forks."""

    def __init__(self) -> None:
        self._state = RawValue(ctypes.c_int, State.begun)

    @property
    def state(self) -> State:
        """Return the child's state."""
        return State(self._state.value)

    def reach(self, warm_up: Callable[[], None] | None, stopping: Callable[[], bool]) -> None:
        """Become ready; called by the child. A failure is logged, and is the worker's end.

        Args:
            warm_up: loads the model and runs it; None where its first job may do so.
            stopping: whether the worker is to stop, which ends the child at once: it holds no job.
        """
        if warm_up is None or stopping():
            self._state.value = State.ready
            return
        if self.state is State.warming:
            log.error("the process loading the model was killed, perhaps by the kernel because memory ran out")
            self._state.value = State.failed
            return
        self._state.value = State.warming
        try:
            with _ended_by(stopping):
                warm_up()
        except Exception as error:
            log.debug("the warm-up failed", exc_info=error)
            log.error("not ready: %s: %s", type(error).__name__, first_line(error))
            self._state.value = State.failed
        else:
            self._state.value = State.ready


@contextmanager
def _ended_by(stopping: Callable[[], bool]) -> Iterator[None]:
    """Within the block the process ends at once when the worker is to stop: loading cannot be interrupted."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(LOOK_SECONDS):
            if stopping():
                os._exit(0)

    threading.Thread(target=look, name="stopping", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def warms_up(settings: Settings) -> bool:
    """Tell whether a worker is warm before it takes jobs."""
    return has_gpu() if settings.warm is None else settings.warm


def has_limit(settings: Settings) -> bool:
    """Return whether a worker's memory has a limit: a GPU's, or one that is set."""
    return settings.worker_memory_bytes is not None or has_gpu()


def has_gpu() -> bool:
    """Tell whether NVIDIA's driver is there: PyTorch, which would know for certain, takes seconds to import."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
