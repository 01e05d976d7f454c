"""A receiver of webhooks: a real HTTP server that answers as it is told, and verifies as any receiver would."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from http_server import answering
from standardwebhooks import Webhook

Answer = int | dict[str, Any] | Callable[[socket.socket], None]
"""A status, or a status with headers, or what is done with the bare connection instead of an answer."""


@dataclass(frozen=True)
class Call:
    """A request that came."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event

    @property
    def video_id(self) -> str:
        return str(self.event["data"]["id"])

    def verify(self, secret: str) -> Any:
        """Check the signature with the library that receivers use."""
        return Webhook(secret).verify(self.body, self.headers)


@dataclass
class Receiver:
    """What came, and what is answered next: once each, then 204."""

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def hang(self, _: socket.socket) -> None:
        """Answer nothing until the test is over."""
        self.released.wait()

    def ids(self) -> list[str]:
        """The event ids in the order in which they came."""
        return [call.headers["webhook-id"] for call in self.calls]


def close(connection: socket.socket) -> None:
    """Hang up without a word."""
    connection.shutdown(socket.SHUT_RDWR)


def drip(*beginning: bytes, each: bytes, every: float = 0.05) -> Callable[[socket.socket], None]:
    """Send a beginning, and then the same piece again and again, until the other side has had enough."""

    def send(connection: socket.socket) -> None:
        pieces: Iterable[bytes] = beginning
        try:
            for piece in pieces:
                connection.sendall(piece)
            while True:
                connection.sendall(each)
                time.sleep(every)
        except OSError:
            return

    return send


@contextmanager
def receiving(*answers: Answer, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver on a port of 127.0.0.1."""
    receiver = Receiver(answers=list(answers))
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            with lock:
                receiver.calls.append(Call(self.path, headers, body, time.time()))
                answer = receiver.answers.pop(0) if receiver.answers else 204
            if callable(answer):
                self.close_connection = True
                return answer(self.connection)
            described = {"status": answer} if isinstance(answer, int) else dict(answer)
            self.send_response(described.pop("status"))
            for name, value in described.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            return self.end_headers()

        def do_GET(self) -> None:
            """A redirect that was followed would come here."""
            receiver.calls.append(Call(self.path, {}, b"{}", time.time()))

        def log_message(self, *_: object) -> None:
            return

    with answering(Handler, port, tls) as at_port:
        receiver.url = f"http{'s' if tls else ''}://127.0.0.1:{at_port}"
        try:
            yield receiver
        finally:
            receiver.released.set()
