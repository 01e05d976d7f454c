"""Start a worker for one model: ``python -m adaspa_worker --model demo``."""

import argparse
import os
import secrets
import socket
import sys
from typing import NoReturn

from adaspa_api.words import Priority
from adaspa_jobs import redis_check
from adaspa_jobs.catalog import Catalog, CatalogError
from adaspa_jobs.queue import queue_name
from adaspa_jobs.settings import SettingsError, get_settings
from adaspa_jobs.storage import ObjectStorage, StorageUnavailable
from adaspa_jobs.store import JobStore, StoreUnavailable

from adaspa_worker import allocator, kernel_cache, metrics
from adaspa_worker.offer import check
from adaspa_worker.provenance import Provenance, ProvenanceError
from adaspa_worker.source import ModelUnavailable, folder_of

WORKER_ID = "ADASPA_WORKER_ID"
"""Variable with the part of the worker's name that stays when it starts again."""


def fail(*messages: object) -> NoReturn:
    """End with a line for each, and exit status 1."""
    for message in messages:
        print(f"adaspa worker: {message}", file=sys.stderr, flush=True)
    raise SystemExit(1)


def check_port(port: int) -> None:
    """Fail with one line if the metrics could not be served there."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        fail(f"ADASPA_METRICS_PORT: cannot use port {port} ({os.strerror(error.errno or 0)})")


def main() -> None:
    """Check catalog, model, Redis and storage, then hand over to Celery."""
    parser = argparse.ArgumentParser(prog="adaspa_worker", description="Run the jobs of one model's queues.")
    parser.add_argument("--model", help="model of the catalog to serve (default: the first)")
    parser.add_argument("--only", choices=list(Priority), help="serve only this queue of the model (default: both)")
    arguments = parser.parse_args()
    asked, priorities = arguments.model, [Priority(arguments.only)] if arguments.only else list(Priority)
    try:
        settings = get_settings()
        kernel_cache.use(settings)
        allocator.use()
        catalog = Catalog.load(settings.catalog)
        spec = catalog.get(asked) if asked else catalog.default
        if spec is None:
            fail(f"--model: {asked!r} is not in the catalog; allowed: {', '.join(catalog.models)}")
        check(spec, folder_of(spec))
        Provenance.of(settings).check()
        if fatal := [problem for problem in redis_check.look(settings).problems if problem.fatal]:
            fail(*fatal)
        ObjectStorage(settings.storage_url).check()
        # Containers on one host's network share its name, and each of them may run as process 1.
        name = f"{spec.id}-{os.environ.get(WORKER_ID) or secrets.token_hex(4)}@{socket.gethostname()}"
        JobStore.from_settings(settings).start_worker(name)
    except (
        SettingsError,
        CatalogError,
        ModelUnavailable,
        StorageUnavailable,
        StoreUnavailable,
        ProvenanceError,
    ) as error:
        fail(error)

    if settings.metrics_port:
        check_port(settings.metrics_port)
        metrics.prepare()
    os.environ["ADASPA_WORKER_NAME"], os.environ["ADASPA_WORKER_MODEL"] = name, spec.id
    os.environ["ADASPA_WORKER_PRIORITIES"] = ",".join(priorities)
    queues = ",".join(queue_name(spec.id, priority) for priority in priorities)
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    one_child = ["--pool", "prefork", "--concurrency", "1"]
    log_level = ["--loglevel", settings.log_level]
    celery = [sys.executable, "-m", "celery", "--quiet", "--app", "adaspa_worker.app", "worker"]
    # A new program: the storage check has started threads, which a forked child would wait for in vain.
    os.execv(sys.executable, [*celery, "--hostname", name, "--queues", queues, *one_child, *quiet, *log_level])


if __name__ == "__main__":
    main()
