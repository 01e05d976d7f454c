"""Job records in Redis. Every transition is a script that checks the state before it, by the store's one clock."""

import json
import logging
import re
import secrets
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from pydantic import ValidationError
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from adaspa_service.contract.catalog import ModelSpec
from adaspa_service.contract.job import (
    Artifact,
    AttentionReport,
    ErrorCode,
    Job,
    JobError,
    JobParams,
    JobStatus,
    Progress,
)
from adaspa_service.contract.queue import queue_name
from adaspa_service.contract.record import job_from_hash
from adaspa_service.contract.scripts import Scripts, StoreUnavailable, reaching
from adaspa_service.contract.settings import Settings

__all__ = [
    "VIDEO_ID",
    "IdempotencyConflict",
    "JobCancelled",
    "JobStore",
    "Lease",
    "LeaseLost",
    "Load",
    "QueueFull",
    "StoreUnavailable",
    "Totals",
]

log = logging.getLogger(__name__)

PREFIX = "adaspa:"
ANNOUNCED_SECONDS = 60.0
"""A model that no worker has announced for this long is served only if the gateway's own catalog has it."""
SEND_SECONDS = 10.0
"""A job that was accepted but not sent to the queue after this long is sent by the janitor."""
ANSWER_SECONDS = 10.0
"""A Redis that takes longer to answer counts as away."""
RESEND_SECONDS = 60.0
"""A sent message that is neither in the queue nor claimed after this long is sent again."""
VIDEO_ID = re.compile(r"video_[0-9a-f]{32}")


class QueueFull(Exception):
    """As many jobs wait for this model as are allowed."""


class IdempotencyConflict(Exception):
    """The idempotency key was used with another request."""


class LeaseLost(Exception):
    """The job is with another attempt, or has ended."""


class JobCancelled(Exception):
    """The job's cancel was asked for: the attempt has to stop and call ``release_cancelled``."""


@dataclass(frozen=True)
class Lease:
    """The right to run a job. ``attempt`` fences: once a later attempt began, this one is refused everything."""

    job: Job
    attempt: int


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


class JobStore:
    """Records, queue places and leases.

    All methods raise StoreUnavailable when Redis cannot be reached. Commands are not repeated behind the caller's
    back; the transitions that end an attempt may be repeated by it, and say the same again.

    Args:
        client: of one Redis or Valkey server.
        lease_seconds: length of a lease.
        max_attempts: lost attempts after which a job fails.
        queue_cap: waiting jobs of one model.
        result_ttl_seconds: how long an ended job is kept.
    """

    def __init__(
        self,
        client: Redis,
        *,
        lease_seconds: float = 30.0,
        max_attempts: int = 3,
        queue_cap: int = 1000,
        result_ttl_seconds: float = 7 * 86400,
        send_seconds: float = SEND_SECONDS,
    ) -> None:
        self.client = client
        self.lease_seconds, self.max_attempts = lease_seconds, max_attempts
        limits = {
            "lease_ms": round(lease_seconds * 1000),
            "max_attempts": max_attempts,
            "queue_cap": queue_cap,
            "ttl_ms": round(result_ttl_seconds * 1000),
            "send_ms": round(send_seconds * 1000),
        }
        self._scripts = Scripts(client, json.dumps(limits))

    @classmethod
    def from_settings(cls, settings: Settings) -> "JobStore":
        """A store with its own connections; nothing is connected yet."""
        client = Redis.from_url(
            settings.redis_url, socket_timeout=ANSWER_SECONDS, socket_connect_timeout=3, retry=Retry(NoBackoff(), 0)
        )
        return cls(
            client,
            lease_seconds=settings.lease_seconds,
            max_attempts=settings.max_attempts,
            queue_cap=settings.queue_cap,
            result_ttl_seconds=settings.result_ttl_seconds,
        )

    def ping(self) -> None:
        """Raise StoreUnavailable if Redis does not answer."""
        with reaching():
            self.client.ping()

    # Owners

    def create(self, params: JobParams) -> Job:
        """Accept a job, as ``admit`` does, without an idempotency key."""
        return self.admit(params)[0]

    def admit(self, params: JobParams, idempotency: tuple[str, str] | None = None) -> tuple[Job, bool]:
        """Accept a job: record and place in the queue in one step. Its message is still to be sent.

        Args:
            params: what was asked.
            idempotency: a key and the digest of the request; the same pair again gives the first job as it stands.

        Returns:
            The job, and whether it is new.

        Raises:
            QueueFull: nothing was written.
            IdempotencyConflict: the key is known with another digest; nothing was written.
        """
        key, digest = idempotency or ("", "")
        outcome, *rest = self._scripts.run(
            "admit", params.model, params.model_dump_json(), secrets.token_hex(9), key, digest
        )
        if outcome == b"full":
            raise QueueFull(params.model)
        if outcome == b"conflict":
            raise IdempotencyConflict(rest[0].decode())
        return self._job(*rest), outcome == b"created"

    def get(self, job_id: str) -> Job | None:
        """The record, also of a discarded job; None if there is none."""
        with reaching():
            fields: Any = self.client.hgetall(PREFIX + "job:" + job_id)
        return job_from_hash(job_id, fields) if fields else None

    def page(
        self, after: str | None = None, limit: int = 20, order: Literal["asc", "desc"] = "desc"
    ) -> tuple[list[Job], bool]:
        """A page of jobs by time of creation, and whether more follow.

        Args:
            after: an id; the page begins behind its place, also when that job is gone.
            limit: jobs at most.
            order: newest first, or oldest first.
        """
        start = f"({after}" if after else ("-" if order == "asc" else "+")
        key = PREFIX + "jobs"
        found: Any
        with reaching():
            if order == "asc":
                found = self.client.zrangebylex(key, start, "+", 0, limit + 1)
            else:
                found = self.client.zrevrangebylex(key, start, "-", 0, limit + 1)
            ids = [item.decode() for item in found]
            with self.client.pipeline(transaction=False) as pipe:
                for job_id in ids[:limit]:
                    pipe.hgetall(PREFIX + "job:" + job_id)
                records = pipe.execute()
        jobs = [job_from_hash(job_id, fields) for job_id, fields in zip(ids, records, strict=False) if fields]
        return jobs, len(ids) > limit

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

    def request_cancel(self, job_id: str) -> JobStatus | None:
        """A queued job is cancelled at once, a running one is asked to stop; the status now, None if unknown."""
        status = self._scripts.run("cancel", job_id)
        return JobStatus(status.decode()) if status else None

    def discard(self, job_id: str) -> bool:
        """Delete a job for its owner: it is cancelled if it has not ended, no longer listed, and removed by
        ``purge`` once no worker holds it. False if there is none."""
        return bool(self._scripts.run("discard", job_id))

    # Workers

    def claim(self, job_id: str, worker: str) -> Lease | None:
        """Begin an attempt at a queued job. None if it does not wait: done, cancelled, or with another worker."""
        fields = self._scripts.run("claim", job_id, worker)
        if not fields:
            return None
        job = self._job(job_id.encode(), fields)
        return Lease(job, job.attempt)

    def report_progress(self, lease: Lease, progress: Progress) -> None:
        """Publish progress and renew the lease. Raises LeaseLost, JobCancelled."""
        self._transition("renew", lease, progress.model_dump_json(exclude_none=True))

    def renew(self, lease: Lease) -> None:
        """Renew the lease. Raises LeaseLost, JobCancelled."""
        self._transition("renew", lease, "")

    def complete(
        self, lease: Lease, artifacts: dict[str, Artifact], report: AttentionReport, timings: dict[str, float]
    ) -> None:
        """in_progress -> completed. May be repeated. Raises LeaseLost, JobCancelled."""
        described = json.dumps({name: artifact.model_dump() for name, artifact in artifacts.items()})
        self._transition("complete", lease, described, report.model_dump_json(), json.dumps(timings))

    def fail(self, lease: Lease, error: JobError) -> None:
        """in_progress -> failed. May be repeated. Raises LeaseLost, JobCancelled."""
        self._transition("fail", lease, error.model_dump_json())

    def release_cancelled(self, lease: Lease) -> None:
        """in_progress -> cancelled, after JobCancelled. May be repeated. Raises LeaseLost."""
        self._transition("release_cancelled", lease)

    def give_back(self, lease: Lease) -> None:
        """in_progress -> queued, when the worker stops. May be repeated. Raises LeaseLost, JobCancelled."""
        self._transition("give_back", lease)

    def announce(self, spec: ModelSpec) -> None:
        """Say that a worker serves this model; to be repeated well within ``ANNOUNCED_SECONDS``."""
        self._scripts.run("announce", spec.id, spec.model_dump_json(), round(ANNOUNCED_SECONDS * 1000))

    def announced(self) -> list[ModelSpec]:
        """The models that workers serve now. An entry that this version cannot read is left out, and logged."""
        found = []
        for text in self._scripts.run("announced"):
            try:
                found.append(ModelSpec.model_validate_json(text))
            except ValidationError as error:
                log.warning("a worker announces a model that this version cannot read: %s", error)
        return found

    # Janitors

    def requeue_expired(self) -> list[str]:
        """Take jobs from workers that are not heard of; those that go back to the queue. Up to 100 a call."""
        lost = JobError(
            code=ErrorCode.worker_lost, message=f"The job lost its worker {self.max_attempts} times and was given up."
        )
        return [job_id.decode() for job_id in self._scripts.run("requeue", lost.model_dump_json())]

    def take_unsent(self, limit: int = 100) -> list[Job]:
        """Queued jobs whose message is to be sent now; no other janitor gets them for a while."""
        ids = self._scripts.run("take_due", "outbox", limit, round(SEND_SECONDS * 1000))
        return [job for job_id in ids if (job := self.get(job_id.decode()))]

    def mark_sent(self, job_id: str) -> None:
        """The job's message is in the queue."""
        self._scripts.run("mark_sent", job_id)

    def resend_lost(self, model: str) -> int:
        """Have messages that vanished from the queue sent again; their number."""
        return int(self._scripts.run("resend_lost", model, queue_name(model), round(RESEND_SECONDS * 1000)))

    def expire(self) -> int:
        """Discard ended jobs whose time is over; their number. Up to 100 a call."""
        return int(self._scripts.run("expire"))

    def take_purgeable(self, limit: int = 100) -> list[str]:
        """Discarded jobs that have ended; no other janitor gets them for a while."""
        ids = self._scripts.run("take_due", "purge", limit, round(SEND_SECONDS * 1000))
        return [job_id.decode() for job_id in ids]

    def purge(self, job_id: str) -> bool:
        """Remove the record of a discarded job, after its files. False if it still runs."""
        return bool(self._scripts.run("purge", job_id))

    def _transition(self, script: str, lease: Lease, *arguments: str) -> None:
        outcome = self._scripts.run(script, lease.job.id, lease.attempt, *arguments)
        if outcome == b"lost":
            raise LeaseLost(f"{lease.job.id}: attempt {lease.attempt} no longer holds the lease")
        if outcome == b"cancelled":
            raise JobCancelled(lease.job.id)

    @staticmethod
    def _job(job_id: bytes, fields: list[bytes]) -> Job:
        pairs = dict(zip(fields[::2], fields[1::2], strict=True))
        return job_from_hash(job_id.decode(), pairs)
