"""A proxy that passes a creation on and holds its answer back."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from threading import Event

import httpx
from http_server import answering
from waiting import PATIENCE


class Holding:
    """State of the proxy.

    Args:
        number: of the creation whose answer is held back, from 1.
    """

    def __init__(self, number: int) -> None:
        self.number, self.url = number, ""
        self.made, self.released = Event(), Event()
        self.keys: list[str] = []
        """Idempotency keys of the creations."""


@contextmanager
def holding(upstream: str, number: int = 1) -> Iterator[Holding]:
    """The proxy, while it runs before the gateway at ``upstream``."""
    state = Holding(number)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            passed = {name: self.headers[name] for name in ("Content-Type", "Idempotency-Key") if name in self.headers}
            answer = httpx.post(f"{upstream}{self.path}", content=body, headers=passed, timeout=PATIENCE)
            if self.path == "/videos":
                state.keys.append(passed["Idempotency-Key"])
                if len(state.keys) == state.number:
                    state.made.set()
                    state.released.wait(PATIENCE)
                    return
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            """Nothing: pytest shows what matters."""

    with answering(Handler) as port:
        state.url = f"http://127.0.0.1:{port}"
        try:
            yield state
        finally:
            state.released.set()
