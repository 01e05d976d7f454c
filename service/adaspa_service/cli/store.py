"""Commands that work in the service's Redis itself, without a server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adaspa_jobs.settings import get_settings
from adaspa_jobs.store import JobStore

from adaspa_service.local.folder import reachable_redis


@contextmanager
def job_store(data_dir: Path | None) -> Iterator[JobStore]:
    """The jobs of the service that ADASPA_REDIS_URL names, or of the one on this data folder. Raises LocalError."""
    settings = get_settings()
    with reachable_redis(data_dir or settings.data_dir) as url:
        jobs = JobStore.from_settings(settings.model_copy(update={"redis_url": url}))
        with jobs.client:
            yield jobs
