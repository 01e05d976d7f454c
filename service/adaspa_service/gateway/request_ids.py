"""A name for each request, by which its lines in the logs are found: the client's own, a proxy's, or a new one."""

import re
import uuid

from adaspa_jobs.logs import bound
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-ID"
TAKEN = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
"""Another could be taken for something else in a log."""


class RequestIds:
    """ASGI middleware: every answer and every line of the log tells the request's id."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if TAKEN.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with bound(request_id=request_id):
            await self.app(scope, receive, named)
