"""FastAPI application."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib.metadata import version
from typing import Any

from adaspa_jobs.settings import Settings
from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi

from adaspa_service.access import open_token
from adaspa_service.gateway import (
    content,
    draining,
    errors,
    estimates,
    events,
    headers,
    health,
    hosts,
    links,
    listing,
    metrics,
    models,
    not_offered,
    page,
    polls,
    preview,
    rate_limits,
    reference,
    request_ids,
    usage,
    videos,
    webhook_secret,
)
from adaspa_service.gateway.errors import ErrorBody
from adaspa_service.gateway.examples import illustrate
from adaspa_service.gateway.janitor import Janitor
from adaspa_service.gateway.state import AppState
from adaspa_service.webhooks import event
from adaspa_service.webhooks.addresses import Addresses, Resolve, system_resolve
from adaspa_service.webhooks.deliverer import Deliverer

DESCRIPTION = """Generate videos from text and images. Every route also works without the `/v1` prefix.

OpenAI's clients work with the base URL `/v1`; pass other fields in `extra_body`."""
API = not_offered, videos, listing, estimates, content, links, preview, events, models, usage, webhook_secret
"""Modules with routes, in the order of the reference."""
EVERYWHERE: dict[int | str, dict[str, Any]] = {
    400: {"description": "A field is invalid; `param` names it", "model": ErrorBody},
    404: {"description": "Not found", "model": ErrorBody},
    410: {"description": "The job's record is damaged; it can only be deleted", "model": ErrorBody},
    421: {"description": "The Host header does not name this service", "model": ErrorBody},
    503: {"description": "A part of the service is unavailable; try again", "model": ErrorBody},
}
WITH_KEY: dict[int | str, dict[str, Any]] = {
    401: {"description": "The API key is missing or invalid", "model": ErrorBody},
    403: {
        "description": "The API key lacks the scope, or the request comes from another site's page",
        "model": ErrorBody,
    },
    429: {"description": "Too many requests with this key; `Retry-After` says when to try again", "model": ErrorBody},
}


@cache
def _router(with_metrics: bool) -> APIRouter:
    """Every route. FastAPI prepares each at the first request, and here once for all applications of a process."""
    router = APIRouter(redirect_slashes=False)
    if with_metrics:
        router.include_router(metrics.router)
    for prefix in ("/v1", ""):
        shown = bool(prefix)
        for module in API:
            router.include_router(
                module.router, prefix=prefix, include_in_schema=shown, responses=EVERYWHERE | WITH_KEY
            )
        router.include_router(health.router, prefix=prefix, include_in_schema=shown, responses=EVERYWHERE)
    router.include_router(page.router)
    router.include_router(reference.router)
    return router


def create_app(settings: Settings, resolve: Resolve = system_resolve) -> FastAPI:
    """Make the gateway. Its janitor runs while the application does.

    Setting ``state.draining`` makes each answer the last one of its connection; ``state.stopping`` ends the event
    streams.

    Args:
        settings: of the whole process.
        resolve: how hosts of webhooks are looked up.

    Raises:
        CatalogError, StorageUnavailable: the settings lead nowhere.
    """
    state = AppState.of(settings, resolve)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with Janitor(state), Deliverer(state.deliveries, settings, Addresses(settings.webhook_networks, resolve)):
            yield
        open_token.take_away(state.open_token, settings.port)
        await state.close()

    app = FastAPI(
        title="AdaSpa serve",
        version=version("adaspa-serve"),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # theirs load scripts from elsewhere; ours are in reference/
        redoc_url=None,
        redirect_slashes=False,
        routes=[*_router(settings.metrics_port is None).routes],
    )
    app.state.shared = state
    app.state.draining, app.state.stopping = threading.Event(), threading.Event()
    app.state.streams = events.OpenStreams(max(1, settings.max_connections // events.STREAMS_SHARE))
    errors.install(app)
    app.state.metrics = metrics.make_registry(state)
    app.add_middleware(polls.Polls, state=state)
    app.add_middleware(hosts.Hosts, settings=settings)
    app.add_middleware(metrics.RequestMetrics, registry=app.state.metrics)
    headers.install(app, settings)
    app.add_middleware(draining.LastAnswers, draining=app.state.draining)
    app.add_middleware(rate_limits.RateLimits)
    app.add_middleware(request_ids.RequestIds)
    app.webhooks.include_router(event.router)
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    return app


def document(app: FastAPI) -> dict[str, Any]:
    """Make the OpenAPI document, with examples, and without the framework's 422: a bad parameter gets a 400 here."""
    if app.openapi_schema is None:
        found = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            webhooks=app.webhooks.routes,
        )
        for path in (found["paths"] | found["webhooks"]).values():
            for operation in path.values():
                answers = operation["responses"]
                if answers.get("422", {}).get("description") == "Validation Error":
                    del answers["422"]
        for name in ("HTTPValidationError", "ValidationError"):
            found["components"]["schemas"].pop(name, None)
        illustrate(found)
        app.openapi_schema = found
    return app.openapi_schema
