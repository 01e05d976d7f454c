"""A proxy that passes creations on and holds the answers to some of them back."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from itertools import count
from threading import Event, Semaphore

from plain_proxy import plain_proxy
from waiting import PATIENCE


@contextmanager
def holding(upstream: str, *numbers: int) -> Iterator[tuple[str, Semaphore]]:
    """Its address, while it runs before the gateway at ``upstream``, and what is released for each answer held back.

    Args:
        numbers: of the creations whose answers those are, from 1.
    """
    held, released, made = Semaphore(0), Event(), count(1)

    def answered(request: BaseHTTPRequestHandler) -> bool:
        if (request.command, request.path) != ("POST", "/videos") or next(made) not in numbers:
            return True
        held.release()
        released.wait(PATIENCE)
        return False

    with plain_proxy(upstream, answered) as url:
        try:
            yield url, held
        finally:
            released.set()
