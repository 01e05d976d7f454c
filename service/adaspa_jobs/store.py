"""Job records in Redis. Every transition is a script that checks the state before it, by the store's one clock.

Here is what a job's owner asks of the store; workers' and janitors' parts are its base classes.
"""

import json
import re
import secrets
from typing import Any, Literal, NamedTuple, cast

from adaspa_api.words import TERMINAL, JobStatus, Priority
from redis import Redis

from adaspa_jobs import tracing
from adaspa_jobs.announcements import Announcements
from adaspa_jobs.append_only import AppendOnlyFile
from adaspa_jobs.attempts import Attempts, JobCancelled, Lease, LeaseLost
from adaspa_jobs.connections import connections
from adaspa_jobs.counts import Counts
from adaspa_jobs.job import OPEN_OWNER, Job, JobParams, Labels
from adaspa_jobs.primary import NOTHING
from adaspa_jobs.record import job_from_hash, job_from_pairs, readable
from adaspa_jobs.scripts import PREFIX, Scripts, StoreUnavailable, reaching
from adaspa_jobs.settings import Settings
from adaspa_jobs.times import Times
from adaspa_jobs.upkeep import GAP_SECONDS, Upkeep
from adaspa_jobs.usage import Usages

__all__ = [
    "VIDEO_ID",
    "Admitted",
    "IdempotencyConflict",
    "InputsGone",
    "InputsLate",
    "JobCancelled",
    "JobStore",
    "KeyGone",
    "Lease",
    "LeaseLost",
    "Look",
    "QueueFull",
    "StoreUnavailable",
    "TooManyInFlight",
]

VIDEO_ID = re.compile(r"video_[0-9a-f]{32}")
BATCH, SCANNED = 250, 2000
"""Jobs whose metadata is read at once, and that one page of a filtered list looks at."""
AWAITED_SECONDS = 3600.0
"""After images were noted, jobs may be made of them for this long."""


class QueueFull(Exception):
    """Refusal: the model's queue is full."""


class TooManyInFlight(Exception):
    """Refusal: the owner has the maximum number of jobs in flight."""


class IdempotencyConflict(Exception):
    """Refusal: the idempotency key was used with another request."""


class KeyGone(Exception):
    """Refusal: the owner's API key was revoked, or has expired."""


class InputsGone(Exception):
    """Refusal: the job whose images were to be shared was removed meanwhile."""


class InputsLate(Exception):
    """Refusal: the images of the request were waited for no longer, and are being removed."""


class Admitted(NamedTuple):
    """Outcome of a request for jobs."""

    jobs: list[Job]
    """Jobs in the order requested."""
    new: bool
    """True for new jobs, false for those that an idempotency key found again."""
    bells: int
    """Bells that are to be rung for them: none where enough messages are in the queue."""
    positions: dict[str, int] | None
    """Queue positions of new jobs by id; 1 is next."""


class Look(NamedTuple):
    """A job at one moment."""

    job: Job
    position: int | None
    """1 for the one that is next in its queue; None if it does not wait."""

    def is_shown_to(self, owner: str) -> bool:
        """Tell whether this owner may see it: it is theirs, and was not deleted."""
        return self.job.owner == owner and not self.job.discarded


def looked(job_id: str, answer: tuple[list[bytes], int | None]) -> Look | None:
    """Read the answer of ``look.lua`` about a job; None if there is none. Raises RecordUnreadable."""
    fields, rank = answer
    return Look(job_from_pairs(job_id.encode(), fields), None if rank is None else rank + 1) if fields else None


def pairs_in(text: bytes | None) -> dict[str, str]:
    """Read the metadata of a record; none where it has none or it cannot be read."""
    try:
        found = json.loads(text or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class JobStore(Attempts, Announcements, Counts, Times, Usages, Upkeep):
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
        unserved_seconds: how long it may wait while no worker serves its queue.
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
        unserved_seconds: float = 6 * 3600,
        bulk_share: float = 0.2,
    ) -> None:
        self.client, self.file = client, AppendOnlyFile(client)
        self.lease_seconds, self.max_attempts = lease_seconds, max_attempts
        self.queue_seconds, self.unserved_seconds = queue_seconds, unserved_seconds
        self.bulk_share = bulk_share
        limits = {
            "lease_ms": round(lease_seconds * 1000),
            "gap_ms": round(GAP_SECONDS * 1000),
            "max_attempts": max_attempts,
            "queue_cap": queue_cap,
            "ttl_ms": round(result_ttl_seconds * 1000),
            "bulk_share": bulk_share,
        }
        self._scripts = Scripts(client, json.dumps(limits))
        self._unreadable: set[bytes] = set()
        self._passed_over: set[str] = set()

    @classmethod
    def from_settings(cls, settings: Settings) -> "JobStore":
        """A store with its own connections; nothing is connected yet."""
        return cls(
            connections(settings.redis_url).client(),
            lease_seconds=settings.lease_seconds,
            max_attempts=settings.max_attempts,
            queue_cap=settings.queue_cap,
            result_ttl_seconds=settings.result_ttl_seconds,
            queue_seconds=settings.queue_seconds,
            unserved_seconds=settings.unserved_seconds,
            bulk_share=settings.bulk_share,
        )

    def ping(self) -> None:
        """Raise StoreUnavailable if Redis does not answer, or would refuse to write."""
        with reaching():
            self.client.delete(NOTHING)

    def now(self) -> float:
        """Unix seconds by the store's clock, which is the only one that gateways have in common."""
        with reaching():
            seconds, microseconds = self.client.time()
        return seconds + microseconds / 1e6

    def last_id_us(self) -> int:
        """Return the time in the latest id, in microseconds: ahead of ``now`` if the clock was set back."""
        with reaching():
            return int(self.client.get(PREFIX + "last_id") or 0)

    def admit_all(
        self,
        params: list[JobParams],
        idempotency: tuple[str, str] | None = None,
        owner: str = OPEN_OWNER,
        *,
        keyed: bool = False,
        max_in_flight: int | None = None,
        priority: Priority = Priority.interactive,
        cost: float = 1.0,
        webhook_url: str | None = None,
        labels: Labels | None = None,
    ) -> Admitted:
        """Accept jobs, all of them or none: records and places in the queue in one step. Bells are still to be rung.

        Args:
            params: what was asked for each, of one model and of the same images.
            idempotency: a key and the digest of the request; the same pair again, from the same owner, gives the first
                current jobs, without deleted ones.
            owner: id of the API key that asks.
            keyed: whether that is a key of the key store, which must still hold.
            max_in_flight: queued and running jobs that the owner may have.
            priority: which of the model's queues they wait in.
            cost: the work of each, in units of the model's default request.
            webhook_url: where the event of each job's end is sent.
            labels: what the client notes at each.

        Raises:
            QueueFull, TooManyInFlight: nothing was written.
            KeyGone: so is the owner's key; nothing was written.
            IdempotencyConflict: the key is known with another digest; nothing was written.
            InputsGone: so are the images of a remix; nothing was written.
            InputsLate: ``await_inputs`` was too long ago, or is not known; nothing was written.
        """
        outcome, *rest = self._scripts.run(
            "admit",
            inputs=params[0].inputs_folder,
            shared=params[0].remixed_from is not None,
            model=params[0].model,
            owner=owner,
            keyed=keyed,
            priority=priority,
            cost=cost,
            version=max(each.needs for each in params),
            max_in_flight=max_in_flight,
            idempotency=f"{owner}:{idempotency[0]}" if idempotency else None,
            digest=idempotency[1] if idempotency else None,
            webhook_url=webhook_url,
            metadata=json.dumps(labels.metadata) if labels and labels.metadata else None,
            user=labels and labels.user,
            trace=tracing.current(),
            params=[each.model_dump_json() for each in params],
            steps=[each.steps for each in params],
            random=[secrets.token_hex(9) for _ in params],
        )
        if outcome == b"no_key":
            raise KeyGone(owner)
        if outcome == b"in_flight":
            raise TooManyInFlight(owner)
        if outcome == b"no_inputs":
            raise InputsGone(params[0].remixed_from)
        if outcome == b"late_inputs":
            raise InputsLate(params[0].inputs_folder)
        if outcome == b"full":
            raise QueueFull(params[0].model)
        if outcome == b"conflict":
            raise IdempotencyConflict(rest[0].decode())
        bells, positions, *rest = rest if outcome == b"created" else (0, None, *rest)
        jobs = [job_from_pairs(*each) for each in rest]
        found = None if positions is None else {job.id: at for job, at in zip(jobs, positions, strict=True)}
        return Admitted(jobs, positions is not None, bells, found)

    def repeated(self, idempotency: tuple[str, str], owner: str = OPEN_OWNER) -> list[Job] | None:
        """Return the jobs that the same request led to before, as ``admit_all`` did; None if its key is new.

        Raises:
            IdempotencyConflict: the key is known with another digest.
        """
        key, digest = idempotency
        outcome, *rest = self._scripts.run("repeated", idempotency=f"{owner}:{key}", digest=digest)
        if outcome == b"conflict":
            raise IdempotencyConflict(rest[0].decode())
        return [job_from_pairs(*each) for each in rest] if outcome == b"known" else None

    def get(self, job_id: str) -> Job | None:
        """Read the record, even of a discarded job; None if there is none. Raises RecordUnreadable."""
        with reaching():
            fields: Any = self.client.hgetall(PREFIX + "job:" + job_id)
        return job_from_hash(job_id, fields) if fields else None

    def look(self, job_id: str) -> Look | None:
        """Read the record, even of a discarded job, and its place; None if there is none. Raises RecordUnreadable."""
        return looked(job_id, self._scripts.run("look", id=job_id))

    def looking(self, job_id: str) -> tuple[str | int | bytes, ...]:
        """Return the command whose answer ``looked`` reads, for those who send it themselves."""
        return self._scripts.command("look", id=job_id)

    def known(self, job_ids: list[str]) -> set[str]:
        """Return the ids that have a record."""
        with reaching(), self.client.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.exists(PREFIX + "job:" + job_id)
            return {job_id for job_id, there in zip(job_ids, pipe.execute(), strict=True) if there}

    def inputs_in_use(self, folders: list[str]) -> set[str]:
        """Return the image folders that a job uses, or may still use; one whose record is gone uses none."""
        with reaching(), self.client.pipeline(transaction=False) as pipe:
            for folder in folders:
                pipe.smembers(PREFIX + "inputs:" + folder)
                pipe.zscore(PREFIX + "awaited_inputs", folder)
            found = pipe.execute()
        jobs = [{job_id.decode() for job_id in members} for members in found[::2]]
        known = self.known(sorted(set().union(*jobs)))
        used = [bool(known & mine) or until is not None for mine, until in zip(jobs, found[1::2], strict=True)]
        return {folder for folder, each in zip(folders, used, strict=True) if each}

    def await_inputs(self, folder: str) -> None:
        """Note that images come into a folder of storage; ``admit_all`` makes jobs of them, within AWAITED_SECONDS."""
        self._scripts.run("await_inputs", folder=folder, wait_ms=round(AWAITED_SECONDS * 1000))

    def preview(self, job_id: str) -> tuple[int, bytes] | None:
        """Read the latest preview of a running job, and its step."""
        with reaching():
            step, image = cast(list[bytes | None], self.client.hmget(f"{PREFIX}preview:{job_id}", "step", "image"))
        return None if step is None or image is None else (int(step), image)

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
    ) -> tuple[list[Job], str | None]:
        """A page of an owner's jobs by time of creation, and the id behind which more follow; None: none do.

        One that this version cannot read is left out, so that a page may hold fewer than ``limit`` though more follow.

        Args:
            after: an id; the page begins behind its place, also when that job is gone.
            limit: jobs at most.
            order: newest first, or oldest first.
            owner: whose jobs.
        """
        ids = self._ids(after, limit + 1, order, owner)
        return self.readable(ids[:limit]), ids[limit - 1] if len(ids) > limit else None

    def page_with(
        self,
        metadata: dict[str, str],
        after: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
        owner: str = OPEN_OWNER,
    ) -> tuple[list[Job], str | None]:
        """Return a page of the owner's jobs whose metadata has all of these pairs.

        Looks through at most SCANNED jobs, so the page may hold fewer than ``limit`` jobs, or none, though more match.

        Returns:
            The jobs, and the id after which the next page starts; None if no jobs are left to look through.
        """
        found: list[str] = []
        for _ in range(0, SCANNED, BATCH):
            ids = self._ids(after, BATCH, order, owner)
            with reaching(), self.client.pipeline(transaction=False) as pipe:
                for job_id in ids:
                    pipe.hget(PREFIX + "job:" + job_id, "metadata")
                texts = pipe.execute()
            for job_id, text in zip(ids, texts, strict=True):
                if metadata.items() <= pairs_in(text).items():
                    if len(found) == limit:
                        return self.readable(found), after
                    found.append(job_id)
                after = job_id
            if len(ids) < BATCH:
                return self.readable(found), None
        return self.readable(found), after

    def _ids(self, after: str | None, limit: int, order: Literal["asc", "desc"], owner: str) -> list[str]:
        """Ids of an owner's jobs behind one, by time of creation."""
        start = f"({after}" if after else ("-" if order == "asc" else "+")
        key = PREFIX + "jobs:" + owner
        found: Any
        with reaching():
            if order == "asc":
                found = self.client.zrangebylex(key, start, "+", 0, limit)
            else:
                found = self.client.zrevrangebylex(key, start, "-", 0, limit)
        return [item.decode() for item in found]

    def readable(self, ids: list[str]) -> list[Job]:
        """Return the jobs that exist and that this version can read."""
        with reaching(), self.client.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hgetall(PREFIX + "job:" + job_id)
            records = pipe.execute()
        return readable(zip(ids, records, strict=True))

    def request_cancel(self, job_id: str) -> JobStatus | None:
        """A queued job is cancelled at once, a running one is asked to stop; the status now, None if unknown."""
        status = self._scripts.run("cancel", id=job_id)
        self.file.synced()
        return JobStatus(status.decode()) if status else None

    def discard(self, job_id: str) -> bool:
        """Delete a job for its owner; return False if there is none.

        An unfinished job is cancelled. The job is no longer listed, and ``purge`` removes it once no worker holds it.
        """
        known = bool(self._scripts.run("discard", id=job_id))
        self.file.synced()
        return known
