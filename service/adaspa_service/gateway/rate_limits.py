"""Headers that tell a client how many requests its key has left."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adaspa_service.access.keys import Rate

NAMES = ("X-RateLimit-Limit-Requests", "X-RateLimit-Remaining-Requests", "X-RateLimit-Reset-Requests")


class RateLimits:
    """ASGI middleware: the answer to a request whose key has a limit tells where the key stands, as OpenAI's do."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            rate: Rate | None = scope.get("state", {}).get("rate")
            if message["type"] == "http.response.start" and rate is not None:
                told = (str(rate.limit), str(rate.remaining), f"{rate.reset_seconds:.3f}s")
                MutableHeaders(scope=message).update(dict(zip(NAMES, told, strict=True)))
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)
