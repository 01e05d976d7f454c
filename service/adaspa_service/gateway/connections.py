"""Connections: how many there may be, how slow, and how an answer of unknown length ends on those of HTTP/1.0.

uvicorn itself waits for ever for the head of a request, keeps a connection whose client takes none of its answer, and
sends chunks to clients that know none. It has no settings for that, and a gateway on a laptop has no proxy before it.

GuardedProtocol overrides what uvicorn does not promise to keep: it is the one piece here that a release of uvicorn can
break. So ``pyproject.toml`` names the releases that it is made for, and tests/service/test_slow_clients.py says whether
another one will do.
"""

import resource
from asyncio import TimerHandle, Transport
from functools import partial
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from typing import Any

import uvicorn
from adaspa_jobs.settings import Settings
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.http.h11_impl import H11Protocol

from adaspa_service.errors import ApiError
from adaspa_service.gateway.errors import respond
from adaspa_service.gateway.headers import SecurityHeaders
from adaspa_service.gateway.health import Health

HEAD_SECONDS = 15.0
"""Seconds that a connection may take to send the head of a request; while none has begun after an answer,
``ADASPA_KEEP_ALIVE_SECONDS`` holds."""
MAX_HEAD_BYTES = 64 * 1024
STALL_SECONDS = 60.0
"""Seconds for which a client may take none of an answer: a slow one goes on, one that has stopped does not."""
STOP_SECONDS = 10
"""Seconds that open answers have to end when the gateway stops."""
OTHER_FILES = 256
"""Open files that no client brings."""
CLOSES = {"Connection": "close"}
NO_ROOM = respond(
    ApiError(503, "too_many_connections", "The gateway has too many connections; try again.", headers=CLOSES)
)
ALIVE = JSONResponse(Health().model_dump(), headers=CLOSES)
TOO_SLOW = respond(ApiError(408, "request_timeout", "the request's headers did not arrive in time", headers=CLOSES))
TOO_LONG = respond(
    ApiError(
        431,
        "headers_too_large",
        f"the request's headers are too large; allowed: up to {MAX_HEAD_BYTES} bytes",
        headers=CLOSES,
    )
)
NOT_HTTP = respond(ApiError(400, "invalid_request", "the request is not valid HTTP", headers=CLOSES))


async def crowded(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer on a connection beyond those that are allowed, in place of the application.

    The process runs, which a probe is told: it would otherwise end all other connections too. For the rest there is no
    room.
    """
    answer = ALIVE if scope["path"] == "/healthz" else NO_ROOM
    await answer(scope, receive, send)


def configure(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Configure uvicorn for the application."""
    return uvicorn.Config(
        app,
        http=GuardedProtocol,
        ws="none",
        log_config=None,
        access_log=settings.log_level == "debug",
        server_header=False,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=STOP_SECONDS,
    )


def allow_open_files(max_connections: int) -> None:
    """Let this process open as many files as its connections need, two for each event stream, if the system does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * max_connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


class GuardedProtocol(AutoHTTPProtocol):  # type: ignore[valid-type, misc]
    """uvicorn's protocol, with limits for the head of each request and for clients that do not take their answer."""

    app: ASGIApp
    client: tuple[str, int] | None
    url: bytes
    headers: list[tuple[bytes, bytes]]
    limit_concurrency: int | None
    _timer: TimerHandle | None = None
    _received = 0
    _in_body = False
    _stall: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:
        super().connection_made(transport)
        self.limit_concurrency = None  # uvicorn would refuse by itself, and not with one of this API's errors
        self.client = as_it_is_known(self.client)
        if len(self.connections) > self.config.limit_concurrency and not self._takes_an_idle_ones_place():
            self.app = SecurityHeaders(crowded)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        began_in_body = self._in_body
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:  # a request is being answered
            self._head_is_over()
            return
        if self._timer is None:
            self._expect_head()
        if began_in_body or AutoHTTPProtocol is H11Protocol:  # the rest of a body that nobody read; h11 has its limit
            return
        self._received += len(data)
        if self._received > MAX_HEAD_BYTES:
            self._refuse(TOO_LONG)

    def on_headers_complete(self) -> None:
        """httptools: a head is over."""
        self._in_body = True
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self.app, self.url = SecurityHeaders(TOO_LONG), b"/"  # httptools reads no address of more than 64 KiB
        if self.parser.get_http_version() == "1.0":  # this request is the connection's last one
            self.app = partial(answer_without_chunks, self, self.app)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """httptools: so is the body, if there was any."""
        self._in_body = False
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Note that the client has not taken what was sent: asyncio's buffer is full."""
        super().pause_writing()
        self._stall = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Resume writing: the client has taken what was sent."""
        self._end_stall()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_over()
        self._end_stall()
        super().connection_lost(exc)

    def _takes_an_idle_ones_place(self) -> bool:
        """Close the connection that has waited longest for its next request, if any does."""
        waiting = [other for other in self.connections if other.timeout_keep_alive_task]
        idle = [other for other in waiting if not other.transport.is_closing()]
        if idle:
            min(idle, key=lambda other: other.timeout_keep_alive_task.when()).transport.close()
        return bool(idle)

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _expect_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self._refuse, TOO_SLOW)

    def _head_is_over(self) -> None:
        self._received = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, in the shape of all errors."""
        self._refuse(NOT_HTTP)

    def _refuse(self, answer: JSONResponse) -> None:
        """Answer in the place of an application that has not been asked yet."""
        if not self.transport.is_closing():
            lines = [b"HTTP/1.1 %d %s" % (answer.status_code, HTTPStatus(answer.status_code).phrase.encode())]
            lines += [name + b": " + value for name, value in answer.raw_headers]
            self.transport.write(b"\r\n".join([*lines, b"", bytes(answer.body)]))
            self.transport.close()


def as_it_is_known(client: tuple[str, int] | None) -> tuple[str, int] | None:
    """A client's address and port: an IPv4 client of a socket for both kinds comes as ``::ffff:192.0.2.1``."""
    if client is None:
        return None
    address = ip_address(client[0])
    return str((isinstance(address, IPv6Address) and address.ipv4_mapped) or address), client[1]


async def answer_without_chunks(
    protocol: GuardedProtocol, app: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """Run the application for a client of HTTP/1.0: an answer that tells no length ends with its connection.

    httptools' protocol would send chunks, which such a client takes for content. It counts bytes instead where it is
    told that there are no chunks, so each part is announced as all that is expected.
    """
    cycle: Any = protocol.cycle
    unmeasured = False

    async def unchunked(message: Message) -> None:
        nonlocal unmeasured
        if message["type"] == "http.response.start":
            unmeasured = all(name.lower() != b"content-length" for name, _ in message["headers"])
            if unmeasured:
                cycle.chunked_encoding = False
        elif unmeasured:
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    await app(scope, receive, unchunked)
