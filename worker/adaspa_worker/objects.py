"""What attempts leave in storage, and its removal."""

import logging

from adaspa_jobs.job import TERMINAL, JobStatus
from adaspa_jobs.storage import ObjectStorage, StorageUnavailable, checkpoint_prefix, video_prefix
from adaspa_jobs.store import JobStore, Lease, StoreUnavailable

log = logging.getLogger(__name__)


def attempt_prefix(job_id: str, attempt: int) -> str:
    """Key prefix of the objects that an attempt writes."""
    return f"{video_prefix(job_id)}{attempt}/"


def remove_earlier(storage: ObjectStorage, lease: Lease) -> None:
    """Remove what attempts left whose worker was killed."""
    for attempt in range(1, lease.attempt):
        try:
            storage.delete_prefix(attempt_prefix(lease.job.id, attempt))
        except StorageUnavailable as error:
            log.warning("%s: objects of attempt %d may be left: %s", lease.job.id, attempt, error)


def remove_unused(store: JobStore, storage: ObjectStorage, lease: Lease) -> None:
    """Remove what this attempt wrote, unless the record says that it is the job's result.

    The record is asked because a completion whose answer was lost on the way looks like a lost lease.
    """
    try:
        job = store.get(lease.job.id)
        if job is None or job.status is not JobStatus.completed or job.attempt != lease.attempt:
            storage.delete_prefix(attempt_prefix(lease.job.id, lease.attempt))
        if job is None or job.status in TERMINAL:
            storage.delete_prefix(checkpoint_prefix(lease.job.id))
    except (StoreUnavailable, StorageUnavailable) as error:
        log.warning("%s: objects of attempt %d may be left: %s", lease.job.id, lease.attempt, error)
