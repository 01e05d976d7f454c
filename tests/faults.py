"""Faults between any two calls that a program makes to the outside: it dies, loses its answer, or another one acts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import redis
from adaspa_jobs.queue import QueueUnavailable
from adaspa_jobs.scripts import StoreUnavailable
from adaspa_jobs.storage import ObjectStorage, StorageUnavailable
from redis.backoff import NoBackoff
from redis.retry import Retry

Kind = Literal["killed", "cut", "interposed"]
AWAY = (StoreUnavailable, QueueUnavailable, StorageUnavailable)


def remembered(client: redis.Redis) -> Callable[[], None]:
    """What Redis holds now; makes it forget all that came after, as one does that lost the end of its append-only
    file, or that a replica has replaced which had not heard of it yet."""
    kept = {key: client.dump(key) for key in client.scan_iter()}

    def go_back() -> None:
        client.flushall()
        for key, content in kept.items():
            client.restore(key, 0, content)

    return go_back


TIMES = (
    "leases",
    "expiry",
    "purge",
    "leavings",
    "served_until",
    "arrivals:*",
    "running:*",
    "workers:*",
    "serving:*",
    "fitting:*",
    "unoffered:*",
)
"""Keys of the store whose members have a time."""


def let_time_pass(client: redis.Redis, seconds: float) -> None:
    """Make every moment that the store noted this much earlier, as if janitors had looked all that time."""
    for pattern in TIMES:
        for key in client.scan_iter(f"adaspa:{pattern}"):
            for member, score in client.zrange(key, 0, -1, withscores=True):  # type: ignore[union-attr]
                client.zadd(key, {member: score - seconds * 1000})
    for queue, moment in client.hgetall("adaspa:served_at").items():  # type: ignore[union-attr]
        client.hset("adaspa:served_at", queue, int(moment) - round(seconds * 1000))  # type: ignore[arg-type]


def let_grace_pass(client: redis.Redis, key_id: str, seconds: float) -> None:
    """Make the earlier secrets of an API key end this much earlier."""
    secrets = [secret.split(b":") for secret in client.hget(f"adaspa:key:{key_id}", "previous").split()]  # type: ignore[union-attr]
    sooner = [f"{digest.decode()}:{int(end) - round(seconds * 1000)}" for digest, end in secrets]
    client.hset(f"adaspa:key:{key_id}", "previous", " ".join(sooner))


def set_clock_on(client: redis.Redis, seconds: float) -> None:
    """What Redis finds when its clock was set ahead, or back: every moment that it noted is so much earlier."""
    let_time_pass(client, seconds)
    if looked := client.get("adaspa:swept_at"):
        client.set("adaspa:swept_at", int(looked) - round(seconds * 1000))  # type: ignore[arg-type]


class Killed(BaseException):
    """The process is dead: none of its handlers may reach the outside any more."""


@dataclass
class Fault:
    """What happens at one call.

    ``killed``: the process dies. ``cut``: the connection breaks, once. ``interposed``: another process acts.
    """

    at: int
    """Which call, from 1."""
    when: Literal["before", "after"]
    """Whether the call still takes effect."""
    kind: Kind
    act: Callable[[], object] = lambda: None
    """What the other process does."""


class Outside:
    """Counts a process's calls to the outside, and strikes at the one that its fault names."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.calls = 0
        self.dead = False

    @contextmanager
    def struck_by(self, fault: Fault | None) -> Iterator[None]:
        """Run a piece of work under a fault; a death ends it here, and afterwards a new process goes on."""
        self.fault, self.calls, self.dead = fault, 0, False
        try:
            yield
        except Killed:
            pass
        finally:
            self.fault, self.dead = None, False

    def call(self, effect: Callable[[], Any], cut: Callable[[], Exception]) -> Any:
        """Make one call.

        Args:
            effect: the call itself.
            cut: makes the error of a connection that breaks.
        """
        if self.dead:
            raise Killed
        self.calls += 1
        fault = self.fault if self.fault and self.fault.at == self.calls else None
        if fault and fault.when == "before":
            self._strike(fault, cut)
        answer = effect()
        if fault and fault.when == "after":
            self._strike(fault, cut)
        return answer

    def _strike(self, fault: Fault, cut: Callable[[], Exception]) -> None:
        self.fault = None
        if fault.kind == "killed":
            self.dead = True
            raise Killed
        if fault.kind == "cut":
            raise cut()
        fault.act()


class FaultyRedis(redis.Redis):
    """A client whose commands, scripts and pipelines are calls of a process."""

    def __init__(self, socket: Path, outside: Outside) -> None:
        super().__init__(unix_socket_path=str(socket), retry=Retry(NoBackoff(), 0))
        self.outside = outside

    def register_script(self, script: Any) -> Any:
        made = super().register_script(script)
        super().script_load(script)  # here, so that its first run is one call like every other
        return made

    def execute_command(self, *args: Any, **options: Any) -> Any:
        plain = super().execute_command
        return self.outside.call(lambda: plain(*args, **options), lambda: redis.ConnectionError("cut"))

    def pipeline(self, transaction: Any = True, shard_hint: Any = None) -> Any:
        made = super().pipeline(transaction, shard_hint)
        execute = made.execute
        made.execute = lambda **options: self.outside.call(  # type: ignore[method-assign]
            lambda: execute(**options), lambda: redis.ConnectionError("cut")
        )
        return made


class FaultyStorage(ObjectStorage):
    """Object storage whose writes, deletions and listings are calls of a process."""

    def __init__(self, url: str, outside: Outside) -> None:
        super().__init__(url)
        self.outside = outside

    def put_file(self, *args: Any) -> Any:
        plain = super().put_file
        return self._call(lambda: plain(*args))

    def create(self, *args: Any) -> Any:
        plain = super().create
        return self._call(lambda: plain(*args))

    def read(self, key: str) -> bytes:
        plain = super().read
        return self._call(lambda: plain(key))

    def keys(self, prefix: str) -> list[str]:
        plain = super().keys
        return self._call(lambda: plain(prefix))

    def delete(self, key: str) -> None:
        plain = super().delete
        return self._call(lambda: plain(key))

    def _call(self, effect: Callable[[], Any]) -> Any:
        return self.outside.call(effect, lambda: StorageUnavailable("cut"))


class FaultyBroker:
    """Sends messages as a Celery application does; each is a call of a process."""

    def __init__(self, celery: Any, outside: Outside) -> None:
        self.celery, self.outside = celery, outside

    def send_task(self, *args: Any, **options: Any) -> Any:
        return self.outside.call(
            lambda: self.celery.send_task(*args, **options), lambda: redis.ConnectionError("the broker is cut off")
        )
