"""Admitting a job: record and queue place first, then the answer, then its bell."""

import hashlib
import logging
import math
from dataclasses import dataclass, field

from adaspa_api.words import Priority
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.counts import Load
from adaspa_jobs.job import Job, JobParams, Labels
from adaspa_jobs.queue import QueueUnavailable, ring
from adaspa_jobs.store import (
    Admitted,
    IdempotencyConflict,
    InputsGone,
    InputsLate,
    KeyGone,
    QueueFull,
    TooManyInFlight,
)

from adaspa_service.access.caller import Caller, refused
from adaspa_service.errors import ApiError, bad_field
from adaspa_service.gateway.lookup import not_found
from adaspa_service.gateway.memory import check_fits
from adaspa_service.gateway.params import resolve_priority
from adaspa_service.gateway.state import AppState

log = logging.getLogger(__name__)

MAX_KEY_CHARS = 255
UNMEASURED_SECONDS = 60
"""Seconds to wait for a full queue of a model that has no worker, or has completed no job yet."""


@dataclass(frozen=True)
class JobRequest:
    """Request for jobs."""

    spec: ModelSpec
    """Catalog entry that the request was judged by; the catalog may have lost it since."""
    params: list[JobParams]
    """Alike but for what does not change the work."""
    priority: str | None
    """Queue asked for; None leaves it to the catalog."""
    webhook_url: str | None = None
    """Address for the event of each job's end."""
    labels: Labels = field(default_factory=Labels)
    """Labels that the client gives each job."""


def repeated(state: AppState, caller: Caller, idempotency: tuple[str, str]) -> list[Job] | None:
    """Find the jobs that the caller's same request led to before; None if its key is new.

    Raises:
        ApiError: 422 key used with another request.
    """
    try:
        return state.store.repeated(idempotency, caller.owner)
    except IdempotencyConflict as error:
        raise key_reused() from error


def submit(state: AppState, caller: Caller, wanted: JobRequest, idempotency: tuple[str, str] | None) -> Admitted:
    """Admit jobs; ``ring_for`` rings their bells.

    Nothing is taken back: another request with the same key may have been told of it.

    Raises:
        ApiError: 400 priority not offered, more jobs than the caller may ever have, or more memory than any worker of
            their queue has, 401 the caller's key has ended since the request began, 404 a remix of a video whose
            images went just now, 429 queue full or too many of the caller's jobs in flight, 422 key used with another
            request, 503 its images were stored too long ago.
        StoreUnavailable: it is not known whether anything was accepted, because a Redis that does not answer in time
            may still do as it was asked. With an Idempotency-Key the same request can be sent again.
    """
    priority, cost = check(state, caller, wanted)
    try:
        return state.store.admit_all(
            wanted.params,
            idempotency,
            caller.owner,
            keyed=caller.keyed,
            max_in_flight=caller.max_in_flight,
            priority=priority,
            cost=cost,
            webhook_url=wanted.webhook_url,
            labels=wanted.labels,
        )
    except KeyGone as error:
        raise refused("the API key is not valid") from error
    except QueueFull as error:
        raise full(state, wanted.spec.id, priority, len(wanted.params)) from error
    except TooManyInFlight as error:
        raise too_many(state, caller, len(wanted.params)) from error
    except IdempotencyConflict as error:
        raise key_reused() from error
    except InputsGone as error:
        raise not_found(str(error)) from error
    except InputsLate as error:
        message = "Accepting the request took too long; try again."
        raise ApiError(503, "service_unavailable", message) from error


def check(state: AppState, caller: Caller, wanted: JobRequest) -> tuple[Priority, float]:
    """Refuse what would be refused at any time; the queue of each job, and its cost.

    Raises:
        ApiError: 400 as of ``submit``.
        StoreUnavailable.
    """
    spec, params, limit = wanted.spec, wanted.params[0], caller.max_in_flight
    cost = spec.cost(params)
    priority = resolve_priority(wanted.priority, spec, cost)
    check_fits(params, state.loads.get(spec.id).queues[priority].fits)
    if limit is not None and len(wanted.params) > limit:
        why = f"allowed: 1 to {limit}, the number of jobs that this key may have in flight"
        raise bad_field("n", f"n: {len(wanted.params)} is out of range; {why}")
    return priority, cost


def ring_for(state: AppState, admitted: Admitted) -> None:
    """Ring the bells of admitted jobs. No client needs to wait for that: workers find jobs whose bells are lost."""
    job = admitted.jobs[0]
    try:
        ring(state.celery, job.params.model, job.priority, admitted.bells)
    except QueueUnavailable as error:
        log.warning("%s: queued, but workers were not notified; one will find it: %s", job.id, error)


def key_reused() -> ApiError:
    """422 for a key that another request came with."""
    message = "Idempotency-Key: already used with a different request; allowed: a new key for each request"
    return ApiError(422, "idempotency_key_reused", message, "Idempotency-Key")


def idempotency_of(asked: str, key: str | None) -> tuple[str, str] | None:
    """Return the key as it is stored, and the digest of what was asked, which is the request as text.

    Raises:
        ApiError: 400 for the key's length.
    """
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_KEY_CHARS:
        raise bad_field("Idempotency-Key", f"Idempotency-Key: has {len(key)} characters; allowed: 1 to {MAX_KEY_CHARS}")
    return tuple(hashlib.sha256(text.encode()).hexdigest() for text in (key, asked))  # type: ignore[return-value]


def full(state: AppState, model: str, priority: Priority, count: int) -> ApiError:
    """Return 429 with the time until the queue is expected to have room for ``count`` more jobs."""
    load = state.store.load(model)
    waiting, cap = load.queues[priority].waiting, state.settings.queue_cap
    starts_in = load.starts_in(priority, max(1, waiting + count - cap))
    wait = UNMEASURED_SECONDS if starts_in is None else starts_in
    message = f"{waiting} {priority} jobs are waiting for model {model}; allowed: {cap}. Try again later."
    return ApiError(429, "queue_full", message, "model", {"Retry-After": str(max(1, math.ceil(wait)))})


def too_many(state: AppState, caller: Caller, count: int) -> ApiError:
    """Return 429 with the time until enough of the caller's jobs are expected to have ended for ``count`` more."""
    limit = caller.max_in_flight or 0
    jobs = state.store.unfinished(caller.owner)
    positions = state.store.queue_positions(jobs)
    left = sorted(seconds_left(state.loads.get(job.params.model), job, positions.get(job.id)) for job in jobs)
    enough = len(left) + count - limit
    wait = left[enough - 1] if enough > 0 else 0.0
    message = f"this key has {len(left)} jobs in flight; allowed: {limit}. Try again later."
    return ApiError(429, "too_many_in_flight", message, None, {"Retry-After": str(max(1, math.ceil(wait)))})


def seconds_left(load: Load, job: Job, position: int | None) -> float:
    """Estimate the seconds until a job ends, from its own steps or from the model's latest jobs and its position."""
    if job.progress.eta_seconds is not None:
        return job.progress.eta_seconds
    starts_in = load.starts_in(job.priority, position) if position else 0.0
    return UNMEASURED_SECONDS if load.pace is None or starts_in is None else starts_in + job.cost * load.pace
