"""Jobs as tests admit them: one at a time, without a gateway that asked for it."""

from typing import Any

from adaspa_jobs.job import Job, JobParams
from adaspa_jobs.store import JobStore


def create(store: JobStore, params: JobParams, **options: Any) -> Job:
    """Accept a job; the options are those of ``JobStore.admit_all``."""
    return admit(store, params, **options)[0]


def admit(
    store: JobStore, params: JobParams, idempotency: tuple[str, str] | None = None, *request: Any, **options: Any
) -> tuple[Job, bool]:
    """The same, and whether it is new."""
    admitted = store.admit_all([params], idempotency, *request, **options)
    return admitted.jobs[0], admitted.new
