"""What is done to the service: one strike after another, at random times, until told to stop."""

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

import redis
from adaspa_api.words import Priority
from adaspa_jobs.queue import make_celery, queue_name, ring
from adaspa_jobs.store import JobStore

from chaos.fleet import LEASE_SECONDS, MODEL, Fleet, Part


@dataclass
class Strike:
    """One fault, and what it hit. Times are Unix seconds."""

    kind: str
    target: str
    at: float
    jobs: list[str] = field(default_factory=list)
    """Those that it interrupted."""
    answered_at: float | None = None
    """When a struck gateway answered again."""


class Striker(threading.Thread):
    """Strikes until ``stop``.

    Args:
        fleet: what is struck.
        random: decides what, when and how long.
        pause: longest time between two strikes, in seconds.
    """

    def __init__(self, fleet: Fleet, random: Random, pause: float) -> None:
        super().__init__(daemon=True)
        self.fleet, self.random, self.pause = fleet, random, pause
        self.done: list[Strike] = []
        self.failure: BaseException | None = None
        self._stopping = threading.Event()
        self._store = JobStore(fleet.client())
        self._celery = make_celery(fleet.settings)
        self._kinds: dict[str, tuple[int, Callable[[], Strike]]] = {
            "worker killed": (5, lambda: self._worker("worker killed", signal.SIGKILL)),
            "worker stopped": (3, lambda: self._worker("worker stopped", signal.SIGSTOP)),
            "worker terminated": (3, lambda: self._worker("worker terminated", signal.SIGTERM)),
            "gateway killed": (2, lambda: self._gateway("gateway killed", signal.SIGKILL)),
            "gateway stopped": (2, lambda: self._gateway("gateway stopped", signal.SIGSTOP)),
            "gateway terminated": (2, lambda: self._gateway("gateway terminated", signal.SIGTERM)),
            "valkey killed": (2, self._kill_valkey),
            "valkey stopped": (1, self._stop_valkey),
            "storage away": (2, self._take_storage_away),
            "storage stopped": (2, self._stop_storage),
            "messages doubled": (4, self._double_messages),
            "messages lost": (4, self._lose_messages),
        }

    def run(self) -> None:
        names = list(self._kinds)
        weights = [weight for weight, _ in self._kinds.values()]
        first = self.random.sample(names, len(names))  # every kind at least once
        try:
            while not self._stopping.wait(self.random.uniform(0.1, self.pause)):
                name = first.pop() if first else self.random.choices(names, weights)[0]
                self.done.append(self._kinds[name][1]())
        except BaseException as failure:
            self.failure = failure
            raise

    def stop(self) -> None:
        """Strike no more; every part is whole again."""
        self._stopping.set()
        self.join()
        if self.failure:
            raise self.failure

    def _running(self, identity: str | None = None) -> list[str]:
        """Jobs in progress, of one worker or of all."""
        with suppress(redis.RedisError):
            ids = [item.decode() for item in self._store.client.zrange(f"adaspa:running:{MODEL}", 0, -1)]
            return [job.id for job in self._store.readable(ids) if identity in (None, job.worker)]
        return []

    def _worker(self, kind: str, number: int) -> Strike:
        part = self.random.choice(self.fleet.workers)
        strike = Strike(kind, part.name, time.time(), self._running(part.identity))
        if number == signal.SIGSTOP:
            self._hold(part, self.random.uniform(0.2, 2 * LEASE_SECONDS))
        else:
            who = self.random.choice(["group", "parent", "child"]) if number == signal.SIGKILL else "parent"
            part.signal(number, who)
        return strike

    def _gateway(self, kind: str, number: int) -> Strike:
        part = self.random.choice(self.fleet.gateways)
        strike = Strike(kind, part.name, time.time())
        if number == signal.SIGSTOP:
            self._hold(part, self.random.uniform(0.2, 3))
        else:
            part.signal(number, "parent")
        deadline = time.monotonic() + 60
        while not part.answers():
            assert time.monotonic() < deadline, f"{part.name} does not come back"
            time.sleep(0.05)
        strike.answered_at = time.time()
        return strike

    def _hold(self, part: Part, seconds: float) -> None:
        part.signal(signal.SIGSTOP)
        time.sleep(seconds)
        part.signal(signal.SIGCONT)

    def _kill_valkey(self) -> Strike:
        strike = Strike("valkey killed", "valkey", time.time(), self._running())
        self.fleet.kill_valkey()
        time.sleep(self.random.uniform(0, 2))
        self.fleet.start_valkey()
        return strike

    def _stop_valkey(self) -> Strike:
        strike = Strike("valkey stopped", "valkey", time.time(), self._running())
        self.fleet.valkey.send_signal(signal.SIGSTOP)
        time.sleep(self.random.uniform(0.5, LEASE_SECONDS))
        self.fleet.valkey.send_signal(signal.SIGCONT)
        return strike

    def _take_storage_away(self) -> Strike:
        strike = Strike("storage away", "storage", time.time(), self._running())
        self.fleet.storage.stop()
        time.sleep(self.random.uniform(0.5, 4))
        self.fleet.start_storage()
        return strike

    def _stop_storage(self) -> Strike:
        """It takes connections and answers nothing, also for longer than a lease."""
        strike = Strike("storage stopped", "storage", time.time(), self._running())
        self.fleet.storage.signal(signal.SIGSTOP)
        time.sleep(self.random.uniform(0.5, 2 * LEASE_SECONDS))
        self.fleet.storage.signal(signal.SIGCONT)
        return strike

    def _double_messages(self) -> Strike:
        """Bells too many: two for each job that runs."""
        running = self._running()
        ring(self._celery, MODEL, Priority.interactive, 2 * len(running))
        return Strike("messages doubled", "queue", time.time(), running)

    def _lose_messages(self) -> Strike:
        """Every bell that waits is lost, for a while."""
        strike = Strike("messages lost", "queue", time.time())
        until = time.monotonic() + self.random.uniform(0.1, 2)
        while time.monotonic() < until:
            with suppress(redis.RedisError):
                self._store.client.delete(*(queue_name(MODEL, priority) for priority in Priority))
            time.sleep(0.01)
        return strike
