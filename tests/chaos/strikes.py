"""What is done to the service at random times: one fault after another, until told to stop."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

import redis
from adaspa_jobs.queue import make_celery
from adaspa_jobs.store import JobStore

from chaos.fleet import MODEL, Fleet, Part


@dataclass
class Strike:
    """One fault, and what it hit. Times are Unix seconds."""

    kind: str
    target: str = ""
    at: float = field(default_factory=time.time)
    jobs: list[str] = field(default_factory=list)
    """Those that it interrupted."""
    answered_at: float | None = None
    """When a struck gateway answered again."""


class Fault(ABC):
    """One kind of fault. When it has struck, every part is whole again, or is on its way to be."""

    name: str
    weight: int
    """How often it is drawn, beside the others' weights."""

    @abstractmethod
    def strike(self, site: "Striker", strike: Strike) -> None:
        """Do it once, and note what it hit."""


class Striker(threading.Thread):
    """Strikes until ``stop``: each fault once, then as they are drawn.

    Args:
        fleet: what is struck.
        random: decides what, when and how long.
        pause: longest time between two strikes, in seconds.
        faults: what there is to strike with.
    """

    def __init__(self, fleet: Fleet, random: Random, pause: float, faults: Sequence[Fault]) -> None:
        super().__init__(daemon=True)
        self.fleet, self.random, self.pause, self.faults = fleet, random, pause, faults
        self.done: list[Strike] = []
        self.failure: BaseException | None = None
        self.celery = make_celery(fleet.settings)
        self.redis = fleet.client()
        self._store = JobStore(self.redis)
        self._stopping = threading.Event()

    def run(self) -> None:
        first = self.random.sample(self.faults, len(self.faults))
        weights = [fault.weight for fault in self.faults]
        try:
            while not self._stopping.wait(self.random.uniform(0.1, self.pause)):
                fault = first.pop() if first else self.random.choices(self.faults, weights)[0]
                strike = Strike(fault.name)
                fault.strike(self, strike)
                self.done.append(strike)
        except BaseException as failure:
            self.failure = failure
            raise

    def stop(self) -> None:
        """Strike no more; every part is whole again."""
        self._stopping.set()
        self.join()
        if self.failure:
            raise self.failure

    def running(self, part: Part | None = None) -> list[str]:
        """Jobs in progress, of one worker or of all."""
        with suppress(redis.RedisError):
            ids = [item.decode() for item in self.redis.zrange(f"adaspa:running:{MODEL}", 0, -1)]
            return [job.id for job in self._store.readable(ids) if part is None or job.worker == part.identity]
        return []

    def sleep(self, shortest: float, longest: float) -> None:
        """Let a fault last."""
        time.sleep(self.random.uniform(shortest, longest))
