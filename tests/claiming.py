"""Attempts as tests want them: at the job that is meant, where a worker takes the one that is next."""

import itertools

from adaspa_api.report import JobError
from adaspa_api.words import ErrorCode
from adaspa_jobs.job import Artifact, Job
from adaspa_jobs.queue import queue_key
from adaspa_jobs.store import JobStore, Lease

# What attempts end with.
VIDEO = {"video": Artifact(key="videos/x/1/video.mp4", content_type="video/mp4", bytes=5, sha256="ab" * 32)}
FAILURE = JobError(code=ErrorCode.generation_failed, message="boom")

_numbers = itertools.count(1)


def claim(store: JobStore, job_id: str) -> Lease | None:
    """As a worker of its own does for whom this job is next; None if it does not wait."""
    job = store.get(job_id)
    if job is None:
        return None
    waiting = f"adaspa:waiting:{queue_key(job.params.model, job.priority)}"
    if store.client.zscore(waiting, job_id) is None:
        return None
    number = next(_numbers)
    store.client.zadd(waiting, {job_id: -number})  # before those that were so claimed and have been given back
    lease = store.claim(job.params.model, f"worker-{number}", priorities=[job.priority])
    assert lease is None or lease.job.id == job_id
    return lease


def claimed(store: JobStore, job: Job) -> Lease:
    """The same of a job that waits."""
    lease = claim(store, job.id)
    assert lease is not None
    return lease


def lose_lease(store: JobStore, job_id: str) -> None:
    """Let the lease of a running job run out now."""
    store.client.zadd("adaspa:leases", {job_id: 0}, xx=True)


def record(store: JobStore, job_id: str) -> Job:
    """A job that is there."""
    job = store.get(job_id)
    assert job is not None
    return job


def nothing_is_held(store: JobStore) -> bool:
    """No job waits, runs, or holds a lease."""
    keys = ["adaspa:waiting:demo", "adaspa:running:demo", "adaspa:leases"]
    return not any(store.client.exists(key) for key in keys)
