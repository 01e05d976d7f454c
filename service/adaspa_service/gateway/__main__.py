"""Run the gateway: ``python -m adaspa_service.gateway``, configured by ``ADASPA_*`` variables."""

import logging
import socket
import sys
from contextlib import suppress
from typing import NoReturn

from adaspa_jobs import logs, redis_check, tracing
from adaspa_jobs.catalog import CatalogError
from adaspa_jobs.listening import at_fault, bindable, listener, reason
from adaspa_jobs.settings import Settings, SettingsError, get_settings
from adaspa_jobs.storage import StorageUnavailable
from adaspa_jobs.store import StoreUnavailable
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, start_http_server

from adaspa_service.access import open_token
from adaspa_service.access.open_access import Access
from adaspa_service.gateway import arenas, connections
from adaspa_service.gateway.app import create_app
from adaspa_service.gateway.draining import Server

log = logging.getLogger(__name__)


def fail(*messages: object) -> NoReturn:
    """End with a line for each, and exit status 1."""
    for message in messages:
        print(f"adaspa gateway: {message}", file=sys.stderr, flush=True)
    raise SystemExit(1)


def check_redis(settings: Settings) -> list[redis_check.Problem]:
    """Fail with what nothing can run with; what else is wrong."""
    problems = redis_check.look(settings).problems
    if fatal := [problem for problem in problems if problem.fatal]:
        fail(*fatal)
    return problems


def main() -> None:
    """Check settings, catalog, Redis, storage and the port, then serve."""
    arenas.limit()
    try:
        settings = get_settings()
        logs.configure(settings)
        app = create_app(settings)
        state = app.state.shared
        if tracing.start("adaspa-gateway"):
            trace_requests(app)
        problems = check_redis(settings)
        access = state.entrance.check()
        state.storage.check()
    except (SettingsError, CatalogError, StoreUnavailable, StorageUnavailable) as error:
        fail(error)
    listening = listen(settings)
    for problem in problems:
        log.warning("%s", problem)
    log.log(logging.WARNING if settings.open_access else logging.INFO, "access: %s", access)
    if settings.metrics_port:
        serve_metrics(app.state.metrics, settings)
    try:
        if state.entrance.now() is Access.token:
            open_token.leave(state.open_token, settings.port)
            if settings.open_token is None:  # else whoever drew it tells of it
                log.info("page: %s", open_token.page(settings, state.open_token))
    except (SettingsError, StoreUnavailable) as error:
        fail(error)

    connections.allow_open_files(settings.max_connections)
    server = Server(
        connections.configure(app, settings), app.state.draining, app.state.stopping, settings.drain_seconds
    )
    # Once it has stopped, uvicorn raises the signal again that stopped it.
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listening])


def trace_requests(app: FastAPI) -> None:
    """A span for each request but the probes'."""
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor  # noqa: PLC0415  of the tracing extra

    FastAPIInstrumentor.instrument_app(app, excluded_urls="healthz,readyz,metrics", exclude_spans=["receive", "send"])


def serve_metrics(registry: CollectorRegistry, settings: Settings) -> None:
    """Serve ``/metrics`` at a port of its own, which the outside need not reach."""
    try:
        start_http_server(settings.metrics_port or 0, addr=bindable(settings.host), registry=registry)
    except OSError as error:
        fail(f"ADASPA_METRICS_PORT: cannot use port {settings.metrics_port} on {settings.host} ({error.strerror})")


def listen(settings: Settings) -> socket.socket:
    """Bind the listening socket here, so that a port in use is one line."""
    try:
        return listener(settings.host, settings.port)
    except OSError as error:
        name = at_fault(error).upper()
        fail(f"ADASPA_{name}: cannot use port {settings.port} on {settings.host} ({reason(error)})")


if __name__ == "__main__":
    main()
