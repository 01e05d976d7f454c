"""A receiver of webhooks that refuses some of them, leaves some without an answer, checks who signed them, and keeps
which ids came for which job."""

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

SILENT_SECONDS = 40.0
"""Longer than a gateway waits."""


class Receiver:
    """An HTTP server for each tenant on a free port, in a thread.

    Args:
        random: decides which deliveries are refused.
        tenants: who has one.
    """

    def __init__(self, random: Random, tenants: Iterable[str]) -> None:
        self.secrets: dict[str, str] = {}
        """By tenant."""
        self.ids: dict[str, set[str]] = defaultdict(set)
        """Webhook ids by job, also those of deliveries that were refused."""
        self.types: dict[str, set[str]] = defaultdict(set)
        self.see: Callable[[Any, str], None] = lambda *_: None
        """Looks at the videos that come."""
        self.got: set[str] = set()
        """Jobs whose event was taken."""
        self.forged: list[str] = []
        """What was wrong with signatures."""
        self.refused = self.taken = self.unanswered = 0
        self.silence = 0.02
        """Share of deliveries that are left without an answer."""
        self.silent: set[str] = set()
        """Tenants whose deliveries are accepted and never answered."""
        self.closing = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                if self.path.strip("/") in receiver.silent or random.random() < receiver.silence:
                    receiver.unanswered += 1
                    receiver.closing.wait(SILENT_SECONDS)
                    self.close_connection = True
                    return
                refuses = random.random() < 0.1
                receiver.take(
                    self.path, self.rfile.read(int(self.headers["Content-Length"])), dict(self.headers), refuses
                )
                self.send_response(random.choice((503, 302)) if refuses else 204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing on the terminal."""

        self._servers = {tenant: ThreadingHTTPServer(("127.0.0.1", 0), Handler) for tenant in tenants}
        for server in self._servers.values():
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def url(self, tenant: str) -> str:
        """Where a tenant's events are to go."""
        return f"http://127.0.0.1:{self._servers[tenant].server_port}/{tenant}"

    def take(self, path: str, body: bytes, headers: dict[str, str], refuses: bool) -> None:
        """Note one delivery."""
        event = json.loads(body)
        job_id = event["data"]["id"]
        try:
            Webhook(self.secrets[path.strip("/")]).verify(body, headers)
        except WebhookVerificationError as error:
            self.forged.append(f"{job_id}: its webhook: {error}")
        self.see(event["data"], "a webhook")
        self.ids[job_id].add(headers["webhook-id"])
        self.types[job_id].add(event["type"])
        self.refused += refuses
        self.taken += not refuses
        if not refuses:
            self.got.add(job_id)

    def close(self) -> None:
        """Stop listening."""
        self.closing.set()
        for server in self._servers.values():
            server.shutdown()
            server.server_close()
