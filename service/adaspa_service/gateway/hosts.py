"""Check of a request's Host, before anything else is looked at."""

from adaspa_jobs.settings import Settings
from starlette.types import ASGIApp, Receive, Scope, Send

from adaspa_service.access.hosts import check_name, host_name
from adaspa_service.errors import ApiError
from adaspa_service.gateway.errors import respond

PROBES = frozenset({"/healthz", "/readyz", "/v1/healthz", "/v1/readyz"})
"""Balancers ask them under any name, or none."""


class Hosts:
    """ASGI middleware: a request names one host, and where names are looked at, one of this service's."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PROBES:
            try:
                name = host_name(scope["headers"])
                if self.settings.open_access or self.settings.allowed_hosts:
                    check_name(self.settings, name)
            except ApiError as error:
                await respond(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)
