"""Access of commands to the service's Redis, without a server."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adaspa_jobs.scripts import StoreUnavailable
from adaspa_jobs.settings import get_settings
from adaspa_jobs.store import JobStore
from redis import Redis

from adaspa_service.access.acts import OperatorActs
from adaspa_service.local.folder import reachable_redis


@contextmanager
def job_store(data_dir: Path | None) -> Iterator[JobStore]:
    """Open the job store at ADASPA_REDIS_URL, or that of the service on this data folder. Raises LocalError."""
    settings = get_settings()
    with reachable_redis(data_dir or settings.data_dir) as url:
        jobs = JobStore.from_settings(settings.model_copy(update={"redis_url": url}))
        with jobs.client:
            yield jobs


def tell_auditors(client: Redis, event: str, **about: str) -> None:
    """Add a line to the gateways' audit log. If Redis does not take it, only warn: the act itself is done."""
    try:
        OperatorActs(client).add(event, **about)
    except StoreUnavailable as error:
        print(f"adaspa: done, but missing from the audit log ({event}): {error}", file=sys.stderr)
