"""Stopping without a failed request.

A proxy learns late that a gateway stops: from its own probe, or from the cluster, which tells its proxies while it ends
the pod. Until it knows, it sends requests, also on connections that it has kept open. So SIGTERM closes nothing at
first: ``/readyz`` says 503, and for ``ADASPA_DRAIN_SECONDS`` every request is served as before, each answer being the
last one on its connection. Then the gateway stops.
"""

import asyncio
import logging
import signal
import threading
import time
from types import FrameType

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adaspa_service.errors import ApiError
from adaspa_service.gateway.errors import respond

log = logging.getLogger(__name__)
STOPPED = respond(ApiError(503, "gateway_stopped", "The gateway stopped before it could answer; try again."))
"""Answer to a request that the stop breaks off; whether it did what was asked, nobody knows."""


class Server(uvicorn.Server):
    """A server that drains at the first SIGTERM, and stops at any other signal.

    Args:
        config: uvicorn's.
        draining: set when it drains.
        stopping: set when it stops. It waits for open answers then, and event streams have no end of their own.
        drain_seconds: between the two; 0: it stops at once.
    """

    def __init__(
        self, config: uvicorn.Config, draining: threading.Event, stopping: threading.Event, drain_seconds: float
    ) -> None:
        super().__init__(config)
        self._draining, self._stopping, self._drain_seconds = draining, stopping, drain_seconds
        self._ends_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGTERM and self._drain_seconds and not self._draining.is_set():
            self._draining.set()
        else:
            self._stopping.set()
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if self._draining.is_set():
            if self._ends_at is None:
                log.info("stopping: still serving for %g s, while /readyz answers 503", self._drain_seconds)
                self._ends_at = time.monotonic() + self._drain_seconds
            elif time.monotonic() >= self._ends_at:
                self.handle_exit(signal.SIGTERM, None)
        return await super().on_tick(counter)


class LastAnswers:
    """ASGI middleware: while the gateway drains, each answer ends its connection.

    One that has not begun when uvicorn waits no longer is a 503, and not uvicorn's own 500.

    Args:
        app: what answers.
        draining: set from then on.
    """

    def __init__(self, app: ASGIApp, draining: threading.Event) -> None:
        self._app, self._draining = app, draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def last(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                if self._draining.is_set():
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            await self._app(scope, receive, last if scope["type"] == "http" else send)
        except asyncio.CancelledError:
            if begun or scope["type"] != "http":
                raise
            await STOPPED(scope, receive, send)
