"""A proxy that passes creations on and holds the answer to one of them back."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from itertools import count
from threading import Event

from plain_proxy import plain_proxy
from waiting import PATIENCE


@contextmanager
def holding(upstream: str, number: int) -> Iterator[tuple[str, Event]]:
    """Its address, while it runs before the gateway at ``upstream``, and what tells that the answer is held back.

    Args:
        number: of the creation whose answer that is, from 1.
    """
    held, released, numbers = Event(), Event(), count(1)

    def answered(request: BaseHTTPRequestHandler) -> bool:
        if (request.command, request.path) != ("POST", "/videos") or next(numbers) != number:
            return True
        held.set()
        released.wait(PATIENCE)
        return False

    with plain_proxy(upstream, answered) as url:
        try:
            yield url, held
        finally:
            released.set()
