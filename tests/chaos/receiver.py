"""A receiver of webhooks that refuses some of them, and keeps which ids came for which job."""

import json
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random


class Receiver:
    """An HTTP server on a free port, in a thread.

    Args:
        random: decides which deliveries are refused.
    """

    def __init__(self, random: Random) -> None:
        self.ids: dict[str, set[str]] = defaultdict(set)
        """Webhook ids by job."""
        self.types: dict[str, set[str]] = defaultdict(set)
        self.refused = self.taken = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                refuses = random.random() < 0.1
                receiver.refused += refuses
                if not refuses:
                    receiver.taken += 1
                    receiver.ids[event["data"]["id"]].add(self.headers["webhook-id"])
                    receiver.types[event["data"]["id"]].add(event["type"])
                self.send_response(503 if refuses else 204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing on the terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
