"""Job records in Redis. Every transition is a script that checks the state before it, by the store's one clock."""

import json
import logging
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, cast

from pydantic import ValidationError
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from adaspa_service.contract import tracing
from adaspa_service.contract.catalog import ModelSpec
from adaspa_service.contract.counts import Counts
from adaspa_service.contract.job import (
    OPEN_OWNER,
    SCHEMA_VERSION,
    TERMINAL,
    WEBHOOK_SINCE,
    Artifact,
    AttentionReport,
    Job,
    JobError,
    JobParams,
    JobStatus,
    Priority,
    Progress,
)
from adaspa_service.contract.record import job_from_hash, readable
from adaspa_service.contract.scripts import PREFIX, Scripts, StoreUnavailable, reaching
from adaspa_service.contract.settings import Settings
from adaspa_service.contract.upkeep import SEND_SECONDS, Upkeep

__all__ = [
    "VIDEO_ID",
    "IdempotencyConflict",
    "JobCancelled",
    "JobStore",
    "Lease",
    "LeaseLost",
    "QueueFull",
    "StoreUnavailable",
    "TooManyInFlight",
]

log = logging.getLogger(__name__)

ANNOUNCED_SECONDS = 60.0
"""A model that no worker has announced for this long is served only if the gateway's own catalog has it."""
COUNTED_SECONDS = 20.0
"""A worker that has announced nothing for this long is not counted when times are estimated."""
ANSWER_SECONDS = 10.0
"""A Redis that takes longer to answer counts as away."""
VIDEO_ID = re.compile(r"video_[0-9a-f]{32}")


class QueueFull(Exception):
    """As many jobs wait for this model as are allowed."""


class TooManyInFlight(Exception):
    """As many of the owner's jobs wait or run as it may have."""


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


class JobStore(Counts, Upkeep):
    """Records, queue places and leases.

    All methods raise StoreUnavailable when Redis cannot be reached. Commands are not repeated behind the caller's
    back; the transitions that end an attempt may be repeated by it, and say the same again.

    Args:
        client: of one Redis or Valkey server.
        lease_seconds: length of a lease.
        max_attempts: lost attempts, or such that failed by a worker's fault, after which a job fails.
        queue_cap: waiting jobs of one model and priority.
        result_ttl_seconds: how long an ended job is kept.
        queue_seconds: how long a job may wait for a worker.
        bulk_share: of the workers' time, for bulk jobs while interactive ones wait too.
    """

    def __init__(
        self,
        client: Redis,
        *,
        lease_seconds: float = 30.0,
        max_attempts: int = 3,
        queue_cap: int = 1000,
        result_ttl_seconds: float = 7 * 86400,
        queue_seconds: float = 86400,
        bulk_share: float = 0.2,
        send_seconds: float = SEND_SECONDS,
    ) -> None:
        self.client = client
        self.lease_seconds, self.max_attempts, self.queue_seconds = lease_seconds, max_attempts, queue_seconds
        self.bulk_share = bulk_share
        limits = {
            "lease_ms": round(lease_seconds * 1000),
            "max_attempts": max_attempts,
            "queue_cap": queue_cap,
            "ttl_ms": round(result_ttl_seconds * 1000),
            "send_ms": round(send_seconds * 1000),
            "bulk_share": bulk_share,
        }
        self._scripts = Scripts(client, json.dumps(limits))
        self._unreadable: set[bytes] = set()

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
            queue_seconds=settings.queue_seconds,
            bulk_share=settings.bulk_share,
        )

    def ping(self) -> None:
        """Raise StoreUnavailable if Redis does not answer."""
        with reaching():
            self.client.ping()

    # Owners; how busy the queues are is in Counts

    def create(self, params: JobParams) -> Job:
        """Accept a job, as ``admit`` does, without an idempotency key."""
        return self.admit(params)[0]

    def admit(
        self,
        params: JobParams,
        idempotency: tuple[str, str] | None = None,
        owner: str = OPEN_OWNER,
        *,
        max_in_flight: int | None = None,
        priority: Priority = Priority.interactive,
        cost: float = 1.0,
        webhook_url: str | None = None,
    ) -> tuple[Job, bool]:
        """Accept a job: ``admit_all`` of one."""
        jobs, new = self.admit_all(
            [params],
            idempotency,
            owner,
            max_in_flight=max_in_flight,
            priority=priority,
            cost=cost,
            webhook_url=webhook_url,
        )
        return jobs[0], new

    def admit_all(
        self,
        params: list[JobParams],
        idempotency: tuple[str, str] | None = None,
        owner: str = OPEN_OWNER,
        *,
        max_in_flight: int | None = None,
        priority: Priority = Priority.interactive,
        cost: float = 1.0,
        webhook_url: str | None = None,
    ) -> tuple[list[Job], bool]:
        """Accept jobs, all of them or none: records and places in the queue in one step. Messages are still to be sent.

        Args:
            params: what was asked for each, of one model.
            idempotency: a key and the digest of the request; the same pair again, from the same owner, gives the first
                jobs as they stand, those left out that were deleted.
            owner: id of the API key that asks.
            max_in_flight: queued and running jobs that the owner may have.
            priority: which of the model's queues they wait in.
            cost: the work of each, in units of the model's default request.
            webhook_url: where the event of each job's end is sent.

        Returns:
            The jobs in the same order, and whether they are new.

        Raises:
            QueueFull, TooManyInFlight: nothing was written.
            IdempotencyConflict: the key is known with another digest; nothing was written.
        """
        key, digest = idempotency or ("", "")
        scoped = f"{owner}:{key}" if key else ""
        outcome, *rest = self._scripts.run(
            "admit",
            params[0].model,
            owner,
            scoped,
            digest,
            max(WEBHOOK_SINCE if webhook_url else 1, *(each.needs for each in params)),
            "" if max_in_flight is None else max_in_flight,
            priority,
            cost,
            webhook_url or "",
            tracing.current(),
            *(text for each in params for text in (each.model_dump_json(), secrets.token_hex(9))),
        )
        if outcome == b"in_flight":
            raise TooManyInFlight(owner)
        if outcome == b"full":
            raise QueueFull(params[0].model)
        if outcome == b"conflict":
            raise IdempotencyConflict(rest[0].decode())
        return [self._job(*each) for each in rest], outcome == b"created"

    def get(self, job_id: str) -> Job | None:
        """The record, also of a discarded job; None if there is none. Raises RecordUnreadable."""
        with reaching():
            fields: Any = self.client.hgetall(PREFIX + "job:" + job_id)
        return job_from_hash(job_id, fields) if fields else None

    def unfinished(self, owner: str) -> list[Job]:
        """An owner's queued and running jobs, the oldest first."""
        with reaching():
            ids = sorted(item.decode() for item in self.client.smembers(f"{PREFIX}unfinished:{owner}"))  # type: ignore[union-attr]
        return [job for job in self.readable(ids) if job.status not in TERMINAL]

    def page(
        self,
        after: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
        owner: str = OPEN_OWNER,
    ) -> tuple[list[Job], bool]:
        """A page of an owner's jobs by time of creation, and whether more follow.

        One that this version cannot read is left out.

        Args:
            after: an id; the page begins behind its place, also when that job is gone.
            limit: jobs at most.
            order: newest first, or oldest first.
            owner: whose jobs.
        """
        start = f"({after}" if after else ("-" if order == "asc" else "+")
        key = PREFIX + "jobs:" + owner
        found: Any
        with reaching():
            if order == "asc":
                found = self.client.zrangebylex(key, start, "+", 0, limit + 1)
            else:
                found = self.client.zrevrangebylex(key, start, "-", 0, limit + 1)
        ids = [item.decode() for item in found]
        return self.readable(ids[:limit]), len(ids) > limit

    def readable(self, ids: list[str]) -> list[Job]:
        """Those of the jobs that are there and that this version can read."""
        with reaching(), self.client.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hgetall(PREFIX + "job:" + job_id)
            records = pipe.execute()
        return readable(zip(ids, records, strict=True))

    def request_cancel(self, job_id: str) -> JobStatus | None:
        """A queued job is cancelled at once, a running one is asked to stop; the status now, None if unknown."""
        status = self._scripts.run("cancel", job_id)
        return JobStatus(status.decode()) if status else None

    def discard(self, job_id: str) -> bool:
        """Delete a job for its owner: it is cancelled if it has not ended, no longer listed, and removed by
        ``purge`` once no worker holds it. False if there is none."""
        return bool(self._scripts.run("discard", job_id))

    # Workers; what janitors do is in Upkeep

    def claim(
        self, model: str, worker: str, process: str = "", priorities: Collection[Priority] = tuple(Priority)
    ) -> Lease | None:
        """Begin an attempt at the model's job that is next; None if none waits that this worker can run.

        May be repeated: a worker runs one job at a time, so a job that it still holds as it claims is one whose answer
        was lost, and is given to it again, as a new attempt. If it was another process of the worker that held the job,
        that process has died, and the attempt is counted as lost.

        Args:
            model: the worker's.
            worker: a name that no other worker has.
            process: of the worker's processes, the one that asks.
            priorities: the queues that the worker serves.
        """
        found = self._scripts.run(
            "claim", model, worker, process, SCHEMA_VERSION, self._given_up().model_dump_json(), *priorities
        )
        if isinstance(found, bytes):
            log.warning("%s: needs a worker of a later version than this one (%d)", found.decode(), SCHEMA_VERSION)
        if not isinstance(found, list):
            return None
        job = self._job(*found)
        return Lease(job, job.attempt)

    def report_progress(self, lease: Lease, progress: Progress) -> None:
        """Publish progress and renew the lease. Raises LeaseLost, JobCancelled."""
        self._transition("renew", lease, progress.model_dump_json(exclude_none=True))

    def report_preview(self, lease: Lease, progress: Progress, image: bytes) -> None:
        """Publish a WebP of what ``progress.preview_step`` led to; it replaces the one before.

        Raises:
            LeaseLost, JobCancelled.
        """
        step = progress.preview_step
        assert step is not None
        self._transition("preview", lease, progress.model_dump_json(exclude_none=True), step, image)

    def preview(self, job_id: str) -> tuple[int, bytes] | None:
        """The latest preview of a running job, and its step."""
        with reaching():
            step, image = cast(list[bytes | None], self.client.hmget(f"{PREFIX}preview:{job_id}", "step", "image"))
        return None if step is None or image is None else (int(step), image)

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

    def put_off(self, lease: Lease, error: JobError) -> None:
        """in_progress -> queued, after an error that was the worker's and not the job's; failed with it once that has
        happened ``max_attempts`` times. May be repeated. Raises LeaseLost, JobCancelled."""
        self._transition("put_off", lease, error.model_dump_json())

    def release_cancelled(self, lease: Lease) -> None:
        """in_progress -> cancelled, after JobCancelled. May be repeated. Raises LeaseLost."""
        self._transition("release_cancelled", lease)

    def give_back(self, lease: Lease) -> None:
        """in_progress -> queued, when the worker stops. May be repeated. Raises LeaseLost, JobCancelled."""
        self._transition("give_back", lease)

    def announce(self, spec: ModelSpec, worker: str) -> None:
        """Say that a worker serves this model; to be repeated well within ``COUNTED_SECONDS``."""
        self._scripts.run(
            "announce",
            spec.id,
            spec.model_dump_json(),
            round(ANNOUNCED_SECONDS * 1000),
            worker,
            round(COUNTED_SECONDS * 1000),
        )

    def announced(self) -> list[ModelSpec]:
        """The models that workers serve now. Fields that a later version added are passed over; an entry that this
        version cannot read is left out, and logged once."""
        found = []
        for text in self._scripts.run("announced"):
            try:
                found.append(ModelSpec.model_validate_json(text, extra="ignore"))
            except ValidationError as error:
                if text not in self._unreadable:
                    self._unreadable.add(text)
                    log.warning("a worker announces a model that this version cannot read: %s", error)
        return found

    def _transition(self, script: str, lease: Lease, *arguments: str | int | bytes) -> None:
        outcome = self._scripts.run(script, lease.job.id, lease.attempt, *arguments)
        if outcome == b"lost":
            raise LeaseLost(f"{lease.job.id}: attempt {lease.attempt} no longer holds the lease")
        if outcome == b"cancelled":
            raise JobCancelled(lease.job.id)

    @staticmethod
    def _job(job_id: bytes, fields: list[bytes]) -> Job:
        pairs = dict(zip(fields[::2], fields[1::2], strict=True))
        return job_from_hash(job_id.decode(), pairs)
