"""Every connection to Redis: one address, one set of time-outs, and nothing that is repeated behind a caller's back.

A lost answer leaves open whether a command was done, so no client repeats one: whoever called does, where it is safe.
Only what was not sent yet is: a connection that was idle is asked whether it still works, and replaced if it does not.
A connection that meets a replica is given up, and with it all idle ones: after a failover they lead to the old primary.
"""

import asyncio
import socket
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio import connection as waiting
from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from adaspa_jobs.primary import NOTHING, Primary
from adaspa_jobs.redis_url import RedisAddress

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 10.0
"""A Redis that takes longer to answer counts as away."""
IDLE_SECONDS = 5
"""A connection that was idle for longer is asked whether it still works before anything is sent; and a worker that
waits for a message asks anew every second, and gives up a connection whose answer is late by so much more."""
PING_SECONDS = 3.0
"""Seconds that it has for that answer."""
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPALIVE": 10, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 8000}
"""Probes of the kernel, where it has them: they keep a NAT's entry alive, and end a connection whose other side is gone
within 20 seconds, or 8 if something was sent. A server that is only slow still acknowledges."""

if TYPE_CHECKING:  # what stands behind ours in each class
    from redis.asyncio.connection import Connection as AsyncBase
    from redis.connection import Connection as Base
else:
    Base = AsyncBase = object


class _Watched(Base):
    """Additions to a connection, placed before redis-py's class for TCP, TLS or a unix socket."""

    def __init__(self, *, primary: Primary, **options: Any) -> None:
        self._primary = primary
        super().__init__(**options)

    def _connect(self) -> Any:
        if self._primary.address.places:
            self.host, self.port = self._primary.place()
        # A new one need not be asked.
        self.next_health_check = time.monotonic() + self.health_check_interval  # type: ignore[assignment]
        return super()._connect()

    def check_health(self) -> None:
        if not self.health_check_interval or time.monotonic() <= self.next_health_check:
            return
        try:
            self.send_command("PING", check_health=False)
            self.read_response(timeout=PING_SECONDS)
        except (RedisConnectionError, RedisTimeoutError):
            self.disconnect()
            self.connect()

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().read_response(*arguments, **options)
        except ResponseError as error:
            if lost := self._primary.judge(error):
                self.disconnect()
                raise lost from error
            raise


class _AsyncWatched(AsyncBase):
    """Additions to a connection that is awaited."""

    def __init__(self, *, primary: Primary, **options: Any) -> None:
        self._primary = primary
        super().__init__(**options)

    async def _connect(self) -> None:
        if self._primary.address.places:
            self.host, self.port = await self._primary.place_soon()
        self.next_health_check = asyncio.get_running_loop().time() + self.health_check_interval
        await super()._connect()

    async def check_health(self) -> None:
        if not self.health_check_interval or asyncio.get_running_loop().time() <= self.next_health_check:
            return
        try:
            await self.send_command("PING", check_health=False)
            if await self.read_response(timeout=PING_SECONDS) is None:
                raise RedisTimeoutError
        except (RedisConnectionError, RedisTimeoutError):
            await self.disconnect(nowait=True)
            await self.connect()

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*arguments, **options)
        except ResponseError as error:
            if lost := self._primary.judge(error):
                await self.disconnect(nowait=True)
                raise lost from error
            raise


class TcpConnection(_Watched, Connection):
    pass


class TlsConnection(_Watched, SSLConnection):
    pass


class UnixConnection(_Watched, UnixDomainSocketConnection):
    pass


class AsyncTcpConnection(_AsyncWatched, waiting.Connection):
    pass


class AsyncTlsConnection(_AsyncWatched, waiting.SSLConnection):
    pass


class AsyncUnixConnection(_AsyncWatched, waiting.UnixDomainSocketConnection):
    pass


BLOCKING: dict[str, type[Connection | UnixDomainSocketConnection]] = {
    "tcp": TcpConnection,
    "tls": TlsConnection,
    "unix": UnixConnection,
}
AWAITED: dict[str, type[waiting.AbstractConnection]] = {
    "tcp": AsyncTcpConnection,
    "tls": AsyncTlsConnection,
    "unix": AsyncUnixConnection,
}


class Pool(ConnectionPool):
    """A pool that gives up its idle connections when the primary has become another."""

    def __init__(self, **options: Any) -> None:
        self._primary, self._lost = options["primary"], options["primary"].lost
        super().__init__(**options)

    def get_connection(self, *arguments: Any, **options: Any) -> Any:
        if self._lost != self._primary.lost:
            self._lost = self._primary.lost
            self.disconnect(inuse_connections=False)
        return super().get_connection(*arguments, **options)


class AsyncPool(waiting.ConnectionPool):
    """Pool of awaited connections that does the same."""

    def __init__(self, **options: Any) -> None:
        self._primary, self._lost = options["primary"], options["primary"].lost
        super().__init__(**options)

    async def get_connection(self, *arguments: Any, **options: Any) -> Any:
        if self._lost != self._primary.lost:
            self._lost = self._primary.lost
            await self.disconnect(inuse_connections=False)
        return await super().get_connection(*arguments, **options)


class Connections:
    """Makes the clients of one Redis.

    Args:
        address: of it.
    """

    def __init__(self, address: RedisAddress) -> None:
        self.address, self.primary = address, Primary(address)

    def __repr__(self) -> str:
        return f"Connections({self.address})"

    @property
    def connection_class(self) -> type[Connection | UnixDomainSocketConnection]:
        """Class of connections for threads."""
        return BLOCKING[self.address.transport]

    def client(self) -> Redis:
        """A client for threads; closing it closes its connections. Nothing is connected yet."""
        return Redis.from_pool(Pool(connection_class=self.connection_class, **self.options()))

    def async_client(self, connections: int) -> AsyncRedis:
        """Return a client for an event loop, with a maximum number of connections. Nothing is connected yet."""
        options = self.options() | {"max_connections": connections}
        return AsyncRedis.from_pool(AsyncPool(connection_class=AWAITED[self.address.transport], **options))

    def probe(self) -> None:
        """Raise redis-py's errors if the server does not answer, or would refuse to write."""
        with self.client() as client:
            client.delete(NOTHING)

    def options(self) -> dict[str, Any]:
        """Return the options of every connection."""
        ours: dict[str, Any] = {
            "primary": self.primary,
            "db": self.address.db,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": ANSWER_SECONDS,
            "socket_connect_timeout": CONNECT_SECONDS,
            "health_check_interval": IDLE_SECONDS,
            # Of one vendor's servers. With them on, the library goes on with a connection that has an old answer in it.
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        if self.address.scheme == "unix":
            place: dict[str, Any] = {"path": self.address.path}
        else:
            probes = {getattr(socket, name): value for name, value in KEEPALIVE.items() if hasattr(socket, name)}
            host, port = self.address.places[0]
            place = {"host": host, "port": port, "socket_keepalive": True, "socket_keepalive_options": probes}
        return ours | place | dict(self.address.options)


@lru_cache
def connections(redis_url: str) -> Connections:
    """Return the connections of a URL, whose clients in a process share its primary. Raises ValueError."""
    return Connections(RedisAddress.of(redis_url))
