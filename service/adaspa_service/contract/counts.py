"""How busy the queues are, and what has come of all jobs: the store's numbers."""

from dataclasses import dataclass
from statistics import median

from redis import Redis

from adaspa_service.contract.job import Job, JobStatus
from adaspa_service.contract.scripts import PREFIX, reaching


@dataclass(frozen=True)
class Load:
    """How busy a model is: numbers of jobs, and the median seconds of its latest completed ones (None: none yet)."""

    waiting: int
    running: int
    job_seconds: float | None


@dataclass(frozen=True)
class Totals:
    """Counts since the store was made."""

    ended: dict[tuple[str, str, str], int]
    """Jobs by model, status and error code ('' unless failed)."""
    leases_lost: dict[str, int]
    """By model."""


class Counts:
    """The part of a JobStore that only counts."""

    client: Redis

    def queue_position(self, job: Job) -> int | None:
        """1 for the job that is next; None if it does not wait."""
        return self.queue_positions([job]).get(job.id)

    def queue_positions(self, jobs: list[Job]) -> dict[str, int]:
        """Places of those of the jobs that wait, by id, in one round trip."""
        waiting = [job for job in jobs if job.status is JobStatus.queued]
        if not waiting:
            return {}
        with reaching(), self.client.pipeline(transaction=False) as pipe:
            for job in waiting:
                pipe.zrank(PREFIX + "waiting:" + job.params.model, job.id)
            ranks = pipe.execute()
        return {job.id: rank + 1 for job, rank in zip(waiting, ranks, strict=True) if rank is not None}

    def load(self, model: str) -> Load:
        """How busy a model is."""
        with reaching(), self.client.pipeline(transaction=False) as pipe:
            pipe.zcard(PREFIX + "waiting:" + model)
            pipe.zcard(PREFIX + "running:" + model)
            pipe.lrange(PREFIX + "durations:" + model, 0, -1)
            waiting, running, durations = pipe.execute()
        return Load(waiting, running, median(map(float, durations)) if durations else None)

    def oldest_waiting_seconds(self, model: str) -> float:
        """How long the job that is next has waited; 0 if none waits."""
        with reaching(), self.client.pipeline(transaction=False) as pipe:
            pipe.zrange(PREFIX + "waiting:" + model, 0, 0, withscores=True)
            pipe.time()
            oldest, (seconds, microseconds) = pipe.execute()
        return max(0.0, seconds + microseconds / 1e6 - oldest[0][1] / 1000) if oldest else 0.0

    def totals(self) -> Totals:
        """What has happened to all jobs, counted in the transitions themselves: exact, also after restarts."""
        with reaching(), self.client.pipeline(transaction=False) as pipe:
            pipe.hgetall(PREFIX + "ended")
            pipe.hgetall(PREFIX + "leases_lost")
            ended, lost = pipe.execute()
        split = {tuple(key.decode().split("|")): int(count) for key, count in ended.items()}
        return Totals(
            {(model, status, code): count for (model, status, code), count in split.items()},
            {model.decode(): int(count) for model, count in lost.items()},
        )
