"""News of the jobs that clients follow: one reader for all of a gateway's event streams.

It waits for the events of all these jobs at once, and tells their followers that there are some. Those read them by
themselves, each from where it is.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from adaspa_jobs.scripts import PREFIX, reaching
from redis.asyncio import Redis

BLOCK_SECONDS = 0.2
"""Seconds that one read waits. A job that is followed from now on is among those that the next one waits for."""
PAUSE_SECONDS = 0.05
"""Between a read that found something and the next: what many jobs do at about one time is found together."""
TICK_SECONDS = 1.0
"""Interval at which each follower is woken."""
GROUPS = 10
"""Groups of followers that are woken one after another in that time: a group shares a round trip for what it then asks,
and no other request has to wait for all of them."""
BATCH = 100
"""Events of a job that are read at once."""


class Follower:
    """Somebody who waits for news of a job."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()
        self._news = False
        self._lost: Exception | None = None
        self.wake(news=True)

    async def wait(self) -> bool:
        """Wait for news or a tick; whether there may be news, as there may be at first. Raises StoreUnavailable."""
        await self._woken.wait()
        if self._lost:
            raise self._lost
        self._woken.clear()
        news, self._news = self._news, False
        return news

    def wake(self, *, news: bool = False, lost: Exception | None = None) -> None:
        """End its waiting."""
        self._news, self._lost = self._news or news, self._lost or lost
        self._woken.set()


class Feed:
    """Reads while there are followers.

    Args:
        client: of Redis; it has one of its connections.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._followers: dict[str, set[Follower]] = {}
        self._read: dict[str, str] = {}
        self._reading: asyncio.Task[None] | None = None

    @contextmanager
    def following(self, video_id: str, last_id: str) -> Iterator[Follower]:
        """Follow a job for the length of a block, from the event after ``last_id``."""
        key, follower = f"{PREFIX}events:{video_id}", Follower()
        self._followers.setdefault(key, set()).add(follower)
        self._read.setdefault(key, last_id)
        if self._reading is None:
            self._reading = asyncio.create_task(self._go())
        try:
            yield follower
        finally:
            self._followers[key].discard(follower)
            if not self._followers[key]:
                del self._followers[key], self._read[key]

    async def _go(self) -> None:
        ticked = time.monotonic()
        try:
            while self._followers:
                found = await self._wait()
                for key, events in found:
                    if key in self._read:
                        self._read[key] = events[-1][0]
                        for follower in self._followers[key]:
                            follower.wake(news=True)
                if time.monotonic() - ticked > TICK_SECONDS:
                    ticked = time.monotonic()
                    for number, follower in enumerate(self._all()):
                        asyncio.get_running_loop().call_later(number % GROUPS * TICK_SECONDS / GROUPS, follower.wake)
                if found:
                    await asyncio.sleep(PAUSE_SECONDS)
        except Exception as error:
            for follower in self._all():
                follower.wake(lost=error)
        finally:
            self._reading = None

    async def _wait(self) -> list[tuple[str, Any]]:
        streams: dict[Any, Any] = dict(self._read)
        with reaching():
            found: Any = await self._client.xread(streams, count=BATCH, block=round(BLOCK_SECONDS * 1000))
        return [(key.decode(), events) for key, events in found]

    def _all(self) -> list[Follower]:
        return [follower for followers in self._followers.values() for follower in followers]
