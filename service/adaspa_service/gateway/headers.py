"""Headers against what browsers are made to do: on every answer, and CORS for the origins that are configured."""

from adaspa_jobs.settings import Settings
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adaspa_service.gateway import polling, rate_limits, request_ids

DEFAULTS = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
}
"""Default headers; the page's files and the videos set their own."""
TAKEN = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "If-Range",
    "Last-Event-ID",
    "Prefer",
    "Range",
)
GIVEN = (
    "Content-Range",
    "ETag",
    "Idempotent-Replayed",
    "Preference-Applied",
    "Retry-After",
    "WWW-Authenticate",
    polling.HEADER,
    request_ids.HEADER,
    *rate_limits.NAMES,
)
"""Headers by which a page of a configured origin may send and read."""
OVER_TLS = {b"strict-transport-security": b"max-age=31536000"}


def install(app: FastAPI, settings: Settings) -> None:
    """Add the middleware; outermost the one for CORS, so that a page can read a refusal too."""
    app.add_middleware(SecurityHeaders)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=TAKEN,
            expose_headers=GIVEN,
        )


class SecurityHeaders:
    """ASGI middleware: every answer carries the headers above."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = DEFAULTS | OVER_TLS if scope.get("scheme") == "https" else DEFAULTS

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(item for item in wanted.items() if item[0] not in own)]
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)
