"""Primary of a Redis that has replicas: which server it is, and how a change is noticed."""

from typing import Any

from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, ReadOnlyError, ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel

from adaspa_jobs.redis_url import RedisAddress

SENTINEL_SECONDS = 3.0
"""A Sentinel that takes longer to be reached, or to answer, is passed over."""
NOTHING = "adaspa:nothing"
"""A key that is never there. Deleting it is refused by a replica as every writing command is; but it is not by a Redis
that is full, which has to go on for what makes it emptier."""


REFUSING = ("MISCONF ", "NOREPLICAS ", "BUSY ")
"""Beginnings of the answers of a server that takes no writes now: its disk is full, its replicas are too few, a script
holds it up."""


class NotPrimary(RedisConnectionError):
    """Refusal: the address leads to a replica, which takes no writes."""


class NoWrites(RedisConnectionError):
    """Refusal: the server takes no writes now. To a writer it is away, so Celery's workers wait and do not end."""


class Primary:
    """Knowledge about the primary that all connections of a process to one Redis share.

    Args:
        address: of the server, or of the Sentinels that know it.
    """

    def __init__(self, address: RedisAddress) -> None:
        self.address = address
        self.lost = 0
        """Number of times that a replica was met in its place."""

    def place(self) -> tuple[str, int]:
        """Host and port now."""
        if not self.address.service:
            return self.address.places[0]
        with Sentinel(self.address.places, sentinel_kwargs=self._sentinel_options()) as sentinel:
            found: tuple[str, int] = sentinel.discover_master(self.address.service)
        return found

    async def place_soon(self) -> tuple[str, int]:
        """``place``, without a thread."""
        if not self.address.service:
            return self.address.places[0]
        async with AsyncSentinel(self.address.places, sentinel_kwargs=self._sentinel_options()) as sentinel:
            found: tuple[str, int] = await sentinel.discover_master(self.address.service)
        return found

    def _sentinel_options(self) -> dict[str, Any]:
        ours = {
            "socket_timeout": SENTINEL_SECONDS,
            "socket_connect_timeout": SENTINEL_SECONDS,
            "retry": Retry(NoBackoff(), 0),  # there is the next one to ask
            "ssl": self.address.transport == "tls",
        }
        tls = {name: value for name, value in self.address.options.items() if name.startswith("ssl_")}
        return ours | tls | dict(self.address.sentinel_login)

    def judge(self, error: ResponseError) -> NotPrimary | NoWrites | None:
        """Read from an answer that the server is no primary, is one no longer, or takes no writes."""
        if str(error).startswith(REFUSING):
            return NoWrites(str(error))
        if not isinstance(error, ReadOnlyError | MasterDownError) and not str(error).startswith("UNBLOCKED "):
            return None
        self.lost += 1
        return NotPrimary(f"{self.address} leads to a read-only replica ({error})")
