"""Admitting a job: record and queue place first, then its message."""

import hashlib
import logging
import math

from adaspa_service.contract.job import Job, JobParams
from adaspa_service.contract.queue import QueueUnavailable, enqueue
from adaspa_service.contract.scripts import StoreUnavailable
from adaspa_service.contract.store import IdempotencyConflict, QueueFull, TooManyInFlight
from adaspa_service.gateway.access import Caller
from adaspa_service.gateway.errors import ApiError, bad_field
from adaspa_service.gateway.parts import Parts

log = logging.getLogger(__name__)

MAX_KEY_CHARS = 255
UNMEASURED_SECONDS = 60
"""What a client is told to wait for a full queue of a model that has completed no job yet."""


def submit(
    parts: Parts, caller: Caller, asked: str, params: list[JobParams], idempotency_key: str | None
) -> tuple[list[Job], bool]:
    """Admit jobs and send their messages; the jobs, and whether they are new. ``asked`` is the request as text.

    A job whose message cannot be sent is accepted all the same: it waits in the outbox, and the janitor sends it when
    the broker is there again. Nothing is taken back: another request with the same key may have been told of it.

    Raises:
        ApiError: 429 queue full or too many of the caller's jobs in flight, 422 key used with another request.
        StoreUnavailable: nothing was accepted.
    """
    try:
        key = idempotency(asked, idempotency_key)
        jobs, new = parts.store.admit_all(params, key, caller.owner, caller.max_in_flight)
    except QueueFull as error:
        raise full(parts, params[0].model) from error
    except TooManyInFlight as error:
        raise too_many(parts, caller, len(params)) from error
    except IdempotencyConflict as error:
        message = "Idempotency-Key: was used with another request; allowed: a new key for each request"
        raise ApiError(422, "idempotency_key_reused", message, "Idempotency-Key") from error
    for job in jobs if new else ():
        try:
            enqueue(parts.celery, job)
        except QueueUnavailable as error:
            log.warning("%s: its message is sent later: %s", job.id, error)
        else:
            note_sent(parts, job.id)
    return jobs, new


def idempotency(asked: str, key: str | None) -> tuple[str, str] | None:
    """The key as it is stored, and the digest of what was asked."""
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_KEY_CHARS:
        raise bad_field("Idempotency-Key", f"Idempotency-Key: {len(key)} characters; allowed: 1 to {MAX_KEY_CHARS}")
    return tuple(hashlib.sha256(text.encode()).hexdigest() for text in (key, asked))  # type: ignore[return-value]


def full(parts: Parts, model: str) -> ApiError:
    """429 with the time until a running job is expected to make room, from the latest completed ones."""
    load = parts.store.load(model)
    wait = UNMEASURED_SECONDS if load.job_seconds is None else load.job_seconds / max(load.running, 1)
    message = f"{load.waiting} jobs wait for model {model}; allowed: {parts.settings.queue_cap}. Try again later."
    return ApiError(429, "queue_full", message, "model", {"Retry-After": str(max(1, math.ceil(wait)))})


def too_many(parts: Parts, caller: Caller, count: int) -> ApiError:
    """429 with the time until enough of the caller's jobs are expected to have ended for ``count`` more."""
    limit = caller.max_in_flight or 0
    if count > limit:
        return bad_field("n", f"n: {count} jobs; allowed: 1 to {limit}, as many as this key may have in flight")
    left = sorted(seconds_left(parts, job) for job in parts.store.unfinished(caller.owner))
    enough = len(left) + count - limit
    wait = left[enough - 1] if enough > 0 else 0.0
    message = f"{len(left)} jobs of this key wait or run; allowed: {limit}. Try again later."
    return ApiError(429, "too_many_in_flight", message, None, {"Retry-After": str(max(1, math.ceil(wait)))})


def seconds_left(parts: Parts, job: Job) -> float:
    """Until a job is expected to end: from its own steps, else from the model's latest jobs and its queue."""
    load = parts.store.load(job.params.model)
    typical = UNMEASURED_SECONDS if load.job_seconds is None else load.job_seconds
    if job.progress.eta_seconds is not None:
        return job.progress.eta_seconds
    position = parts.store.queue_position(job) or 0
    return typical * (1 + position / max(load.running, 1))


def note_sent(parts: Parts, job_id: str) -> None:
    """Take the job out of the outbox; if that fails its message is sent twice, which does no harm."""
    try:
        parts.store.mark_sent(job_id)
    except StoreUnavailable as error:
        log.warning("%s: its message may be sent twice: %s", job_id, error)
