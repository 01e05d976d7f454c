"""Turns of requests with images, which limit how many a gateway receives at a time.

Such requests fill its memory, its folder for temporary files, its only decoder and its connections to other servers.

An owner has a part of them, so that one whose images come slowly, or cost much, keeps no other's out.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary

from adaspa_service.errors import ApiError

AT_A_TIME = 32
OF_AN_OWNER = 8
WAIT_SECONDS = 30.0
"""Seconds that a further request waits for its turn."""


class Turn:
    """A request's turn, which may have come or not."""

    def __init__(self, *places: asyncio.Semaphore) -> None:
        self._places, self._taken = places, list[asyncio.Semaphore]()

    async def take(self) -> None:
        """Wait until it has come. Raises ApiError: 503, that takes too long."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                for place in self._places[len(self._taken) :]:
                    await place.acquire()
                    self._taken.append(place)
        except TimeoutError as error:
            message = "The gateway is receiving too many images, in all or with this key; try again."
            raise ApiError(503, "too_many_images", message, headers={"Connection": "close"}) from error

    def end(self) -> None:
        """End the turn: it is another request's."""
        while self._taken:
            self._taken.pop().release()


class Turns:
    """Gives requests with images their turns."""

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(AT_A_TIME)
        self._owners: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @contextmanager
    def of(self, owner: str) -> Iterator[Turn]:
        """Give a turn to one of an owner's requests; it ends with the ``with`` block."""
        turn = Turn(self._owners.setdefault(owner, asyncio.Semaphore(OF_AN_OWNER)), self._all)
        try:
            yield turn
        finally:
            turn.end()
