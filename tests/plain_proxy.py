"""A reverse proxy as a plain ``proxy_pass`` makes one: the upstream's name is the Host, and nothing is added."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from http_server import answering
from waiting import PATIENCE


@contextmanager
def plain_proxy(
    upstream: str, answered: Callable[[BaseHTTPRequestHandler], bool] = lambda request: True
) -> Iterator[str]:
    """Its address, while it runs before the server at ``upstream``.

    Args:
        answered: tells of a request that was passed on whether it is answered.
    """
    target = urlsplit(upstream).netloc

    class Handler(BaseHTTPRequestHandler):
        def handle_request(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            passed = {name: value for name, value in self.headers.items() if name not in ("Host", "Connection")}
            connection = HTTPConnection(target, timeout=PATIENCE)
            connection.request(self.command, self.path, body, passed)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if not answered(self):
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = handle_request

        def log_message(self, *_: object) -> None:
            """Nothing: pytest shows what matters."""

    with answering(Handler) as port:
        yield f"http://127.0.0.1:{port}"
