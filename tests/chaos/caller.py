"""A client of the service that is soaked: it asks one gateway and the other, until one answers."""

import time
from itertools import count
from typing import Any, Self

import httpx

from chaos.service import Service

ENDS = ("completed", "failed", "cancelled")
PATIENCE = 900.0


class Caller:
    """A client with a tenant's key.

    Args:
        service: whom to ask.
        tenant: whose key.
    """

    _numbers = count()

    def __init__(self, service: Service, tenant: str) -> None:
        self._ports = service.ports
        self._http = httpx.Client(timeout=30, headers={"Authorization": f"Bearer {service.keys[tenant]}"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Ask until a gateway answers."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = self._http.request(method, self._url(path), **more)
                if method == "DELETE" and answer.status_code == 404:
                    return answer  # an earlier request, whose answer was lost, has done so
                if answer.status_code == 400 and answer.json()["error"]["param"] == "priority":
                    return answer
                if answer.status_code not in (429, 503):
                    return answer.raise_for_status()
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, f"{method} {path}: no answer"
            time.sleep(0.5)

    def end(self, video_id: str, follow: bool = False) -> str:
        """Follow or poll a video until it has ended; its status."""
        deadline = time.monotonic() + PATIENCE
        if follow:
            try:
                with self._http.stream("GET", self._url(f"/videos/{video_id}/events")) as answer:
                    for _ in answer.iter_lines():
                        pass
            except httpx.TransportError:  # a gateway was restarted
                pass
        while (status := self.ask("GET", f"/videos/{video_id}").json()["status"]) not in ENDS:
            assert time.monotonic() < deadline, f"{video_id}: is {status} after {PATIENCE:.0f} s"
            time.sleep(0.3)
        return str(status)

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._ports[next(self._numbers) % len(self._ports)]}/v1{path}"
