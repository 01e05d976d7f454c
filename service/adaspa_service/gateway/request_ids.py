"""A name for each request, by which its lines in the logs are found: the client's own, a proxy's, or a new one."""

import re
import uuid

from adaspa_jobs.logs import bound
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-ID"
NAME = HEADER.lower().encode()
TAKEN = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
"""Another could be taken for something else in a log."""


class RequestIds:
    """ASGI middleware: every answer and every line of the log tells the request's id."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == NAME), b"")
        request_id = given.decode() if TAKEN.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (NAME, request_id.encode())]
            await send(message)

        with bound(request_id=request_id):
            await self.app(scope, receive, named)
