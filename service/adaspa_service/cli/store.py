"""Access of commands to the service's Redis, without a server."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adaspa_jobs.scripts import StoreUnavailable
from adaspa_jobs.settings import get_settings
from adaspa_jobs.store import JobStore
from redis import Redis

from adaspa_service.access.acts import OperatorActs
from adaspa_service.local.folder import LocalError, reachable_redis


@contextmanager
def job_store(data_dir: Path | None, *, first: bool = False) -> Iterator[JobStore]:
    """Open the job store at ADASPA_REDIS_URL, or that of the service on this data folder.

    Args:
        data_dir: of the service; the settings' folder if None.
        first: whether the folder may be new. It then says so, because a service on another folder would not notice.

    Raises:
        LocalError: no service was ever started on the folder, or its server cannot be used.
    """
    settings = get_settings()
    folder = (data_dir or settings.data_dir).resolve()
    if "ADASPA_REDIS_URL" not in os.environ and not (folder / "valkey").is_dir():
        if not first:
            raise LocalError(f"data folder {folder}: no service was started on it; name the service's with --data-dir")
        print(f"adaspa: {folder} is a new data folder: use it with `adaspa serve --data-dir {folder}`", file=sys.stderr)
    with reachable_redis(folder) as url:
        jobs = JobStore.from_settings(settings.model_copy(update={"redis_url": url}))
        with jobs.client:
            yield jobs


def tell_auditors(client: Redis, event: str, **about: str) -> None:
    """Add a line to the gateways' audit log. If Redis does not take it, only warn: the act itself is done."""
    try:
        OperatorActs(client).add(event, **about)
    except StoreUnavailable as error:
        print(f"adaspa: done, but missing from the audit log ({event}): {error}", file=sys.stderr)
