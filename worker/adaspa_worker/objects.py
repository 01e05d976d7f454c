"""Leavings in storage of attempts that came to nothing, and their removal."""

import logging

from adaspa_api.words import JobStatus
from adaspa_jobs.storage import ObjectStorage, StorageUnavailable, attempt_prefix
from adaspa_jobs.store import JobStore, Lease, StoreUnavailable

log = logging.getLogger(__name__)


def remove_unused(store: JobStore, storage: ObjectStorage, lease: Lease) -> None:
    """Remove what this attempt wrote, unless the record says that it is the job's result.

    The record is asked because a completion whose answer was lost on the way looks like a lost lease. What attempts
    left whose worker was killed, the gateways' janitor removes when the job has ended.
    """
    try:
        job = store.get(lease.job.id)
        if job is None or job.status is not JobStatus.completed or job.token != lease.token:
            storage.delete_prefix(attempt_prefix(lease.job.id, lease.token))
    except (StoreUnavailable, StorageUnavailable) as error:
        log.warning("%s: objects of attempt %d may remain in storage: %s", lease.job.id, lease.attempt, error)
