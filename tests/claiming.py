"""Begin an attempt at the job that a test means, where a worker takes the one that is next."""

import itertools

from adaspa_service.contract.queue import queue_key
from adaspa_service.contract.store import JobStore, Lease

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
