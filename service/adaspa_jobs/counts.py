"""Numbers of the store: how busy the queues are, and what has come of all jobs."""

from dataclasses import dataclass
from statistics import median
from typing import Any

from adaspa_api.words import JobStatus, Priority
from redis import Redis
from redis.exceptions import NoPermissionError

from adaspa_jobs.counters import Counters
from adaspa_jobs.fits import Fits
from adaspa_jobs.job import Job
from adaspa_jobs.queue import queue_key
from adaspa_jobs.scripts import PREFIX, Scripts, reaching


@dataclass(frozen=True)
class QueueLoad:
    """One of a model's queues."""

    waiting: int
    """Jobs."""
    cost: float
    """Their sum, in units of the model's default request."""
    oldest_seconds: float
    """Seconds that the job that came first has waited; 0 if none waits."""
    workers: int
    """Number of live workers that serve this queue."""
    elapsed: list[tuple[float, float]]
    """Seconds since the attempt began, and cost, for each job these workers run, from either queue."""
    fits: tuple[Fits | None, ...] = ()
    """Contents that fit into the memory of each of these workers, None if it does not say, and of those that were there
    lately and may come back."""


@dataclass(frozen=True)
class Load:
    """Load of a model."""

    workers: int
    """Number of live workers."""
    pace: float | None
    """Median seconds for a unit of cost, of the latest completed jobs; None: none yet."""
    running: int
    """Jobs that a worker holds."""
    queues: dict[Priority, QueueLoad]
    bulk_share: float
    since: int | None = None
    """Time at which a worker announced it first, in Unix seconds; None if none has."""

    @property
    def waiting(self) -> int:
        """Jobs in both queues."""
        return sum(queue.waiting for queue in self.queues.values())

    @property
    def unfinished(self) -> int:
        """Waiting and running jobs."""
        return self.waiting + self.running

    def starts_in(self, priority: Priority, position: int) -> float | None:
        """Seconds until the job at this position of its queue is expected to begin; None if nothing is known.

        The first of the queue's workers that is free takes the first job; then the queue goes on at its share of all
        workers, by those that serve it.
        """
        queue, rival = self.queues[priority], self.queues[other(priority)]
        if self.pace is None or not queue.workers:
            return None
        left = [max(0.0, cost * self.pace - seconds) for seconds, cost in queue.elapsed]
        first = min(left) if len(left) >= queue.workers else 0.0
        shares = {Priority.bulk: self.bulk_share, Priority.interactive: 1 - self.bulk_share}
        own = max(shares[priority] * self.workers, self.workers - rival.workers)  # some may serve no other queue
        at_once = min(own, queue.workers) if rival.waiting else queue.workers
        mean = queue.cost / queue.waiting if queue.waiting else 1.0
        return first + (position - 1) * mean * self.pace / at_once


def other(priority: Priority) -> Priority:
    """Return the priority of the model's other queue."""
    return Priority.interactive if priority is Priority.bulk else Priority.bulk


@dataclass(frozen=True)
class Totals:
    """Counts since the store was made."""

    ended: dict[tuple[str, str, str], int]
    """Jobs by model, status and error code ('' unless failed)."""
    leases_lost: dict[str, int]
    """Number of leases lost, by model."""
    damaged: dict[str, int]
    """Number of counters that are left out because they cannot be read, by their key without PREFIX."""


@dataclass(frozen=True)
class Room:
    """Memory that Redis uses and may use, in bytes; a limit of 0 is none."""

    memory_bytes: int
    memory_limit: int
    connections: int
    connection_limit: int


class Counts:
    """Part of a JobStore that only counts."""

    client: Redis
    bulk_share: float
    _scripts: Scripts

    def queue_position(self, job: Job) -> int | None:
        """1 for the job that is next in its queue; None if it does not wait."""
        return self.queue_positions([job]).get(job.id)

    def queue_positions(self, jobs: list[Job]) -> dict[str, int]:
        """Places of those of the jobs that wait, by id, in one round trip."""
        waiting = [job for job in jobs if job.status is JobStatus.queued]
        if not waiting:
            return {}
        with reaching(), self.client.pipeline(transaction=False) as pipe:
            for job in waiting:
                pipe.zrank(PREFIX + "waiting:" + queue_key(job.params.model, job.priority), job.id)
            ranks = pipe.execute()
        return {job.id: rank + 1 for job, rank in zip(waiting, ranks, strict=True) if rank is not None}

    def load(self, model: str) -> Load:
        """Count the model's waiting and running jobs and its workers."""
        workers, paces, running, queues, since = self._scripts.run("load", model=model)
        return Load(
            workers=workers,
            pace=median(map(float, paces)) if paces else None,
            running=len(running),
            queues={
                priority: QueueLoad(
                    waiting,
                    max(0.0, float(cost)),
                    max(0.0, int(oldest_ms) / 1000),
                    serving,
                    [(float(seconds), float(of)) for seconds, of, *serves in running if serves[number]],
                    tuple(map(Fits.read, fits)),
                )
                for number, (priority, (waiting, cost, oldest_ms, serving, fits)) in enumerate(
                    zip(Priority, queues, strict=True)
                )
            },
            bulk_share=self.bulk_share,
            since=int(since) if since else None,
        )

    def room(self) -> Room | None:
        """Return how much room Redis has left; None if its user may not ask."""
        with reaching():
            try:
                found: Any = self.client.info("memory", "clients")
            except NoPermissionError:  # INFO counts as dangerous in Redis' access lists
                return None
        return Room(found["used_memory"], found["maxmemory"], found["connected_clients"], found.get("maxclients", 0))

    def totals(self) -> Totals:
        """Count what has happened to all jobs: exact, even after restarts, because the transitions themselves count."""
        ends, leases = Counters.read(self.client, {"ended": 3, "leases_lost": 1})
        return Totals(
            {(model, status, code): count for (model, status, code), count in ends.by_name.items()},
            {model: count for (model,), count in leases.by_name.items()},
            {"ended": ends.damaged, "leases_lost": leases.damaged},
        )
