"""Commands that work in the service's Redis itself, without a server."""

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
    """The jobs of the service that ADASPA_REDIS_URL names, or of the one on this data folder. Raises LocalError."""
    settings = get_settings()
    with reachable_redis(data_dir or settings.data_dir) as url:
        jobs = JobStore.from_settings(settings.model_copy(update={"redis_url": url}))
        with jobs.client:
            yield jobs


def tell_auditors(client: Redis, event: str, **about: str) -> None:
    """Leave a line for the gateways' audit log. What was done is done: a Redis that takes no line is only told of."""
    try:
        OperatorActs(client).add(event, **about)
    except StoreUnavailable as error:
        print(f"adaspa: done, but the audit log will not have it ({event}): {error}", file=sys.stderr)
