"""Checks of what the service needs of its Redis, made when a part of it starts, and by ``adaspa doctor``.

A server can answer PING and yet be of no use: in cluster mode, as a replica, to a user that lacks a right. So all that
is needed is tried once with keys of its own: the commands, a script, a message through Celery's connection.
"""

import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

from adaspa_api.words import Priority
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    ClusterError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
)

from adaspa_jobs import connections as clients
from adaspa_jobs.connections import connections
from adaspa_jobs.primary import NOTHING, NotPrimary
from adaspa_jobs.queue import make_celery, queue_name
from adaspa_jobs.scripts import PREFIX
from adaspa_jobs.settings import Settings

LEFT_SECONDS = 60
"""Redis forgets by itself what is left of a trial that was killed."""
COMMANDS = """
HSET {h} a 1 b 2|HSETNX {h} c 3|HGET {h} a|HMGET {h} a b|HGETALL {h}|HVALS {h}|HLEN {h}|HINCRBY {h} a 1
HINCRBYFLOAT {h} a 0.5|HDEL {h} c|ZADD {z} 1 a|ZINCRBY {z} 1 a|ZSCORE {z} a|ZRANK {z} a|ZCARD {z}|ZCOUNT {z} 0 1
ZRANGE {z} 0 -1|ZRANGEBYLEX {z} - +|ZREVRANGEBYLEX {z} + -|ZREM {z} b|ZREMRANGEBYSCORE {z} 8 9|LPUSH {l} a
RPUSH {l} b|LRANGE {l} 0 -1|LTRIM {l} 0 9|LLEN {l}|RPOP {l}|SADD {s} a|SMEMBERS {s}|SCARD {s}|SREM {s} b
XADD {x} * a 1|XRANGE {x} - +|XREAD COUNT 1 STREAMS {x} 0|SET {v} 1|INCRBY {v} 1|GET {v}|EXISTS {v}|PTTL {v}
EXPIRE {v} 9|PERSIST {v}|TYPE {v}|TIME|PING|RENAME {v} {w}
"""
"""Commands of the store's scripts and methods; DEL, PEXPIRE and Celery's own are tried separately."""
TWO_KEYS = "return redis.call('EXISTS', ARGV[1]) + redis.call('EXISTS', ARGV[2])"
"""A script as ours are: its keys are not declared, and lie wherever they may."""
CELERY_KEYS = ("_kombu.binding.nothing", "unacked", "unacked_index", "unacked_mutex", "generate.nothing")


@dataclass(frozen=True)
class Problem:
    """Something that is not as it has to be.

    Args:
        found: in one line.
        mend: what to do about it.
        fatal: whether nothing can run so.
    """

    found: str
    mend: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"ADASPA_REDIS_URL: {self.found}: {self.mend}"


@dataclass
class Look:
    """Findings of one look.

    Args:
        server: name and version; empty where they are not told.
        problems: the worst first.
    """

    server: str = ""
    problems: list[Problem] = field(default_factory=list)


def look(settings: Settings) -> Look:
    """Try everything. Raises nothing: what Redis answers is the finding."""
    found = Look()
    with connections(settings.redis_url).client() as client:
        for part in (_server, _writes, _rights, _message):
            try:
                found.problems += part(client, settings, found)
            except (RedisError, OperationalError, OSError, Empty) as error:
                if (problem := _problem(error)) not in found.problems:
                    found.problems.append(problem)
            if part in (_server, _writes) and any(problem.fatal for problem in found.problems):
                break
    found.problems.sort(key=lambda problem: not problem.fatal)
    return found


def _server(client: Redis, _: Settings, found: Look) -> Iterator[Problem]:
    """Ask the server about itself."""
    try:
        about: Any = client.info()
    except NoPermissionError:
        yield Problem(
            "cannot check eviction and persistence, because the user may not run INFO",
            "give the user +info",
            fatal=False,
        )
        return
    version = about.get("redis_version", "7")
    found.server = f"{about.get('server_name', 'redis')} {about.get('valkey_version', version)}"
    if int(version.split(".")[0]) < 7:
        yield Problem(f"{found.server} is too old", "use Redis 7 or newer, or Valkey")
    if about.get("cluster_enabled"):
        yield _clustered()
    policy = about.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        limit = about.get("maxmemory", 0)
        mend = "set maxmemory-policy to noeviction"
        yield Problem(f"its eviction policy {policy} drops jobs when memory is full", mend, fatal=bool(limit))
    if not about.get("aof_enabled"):
        yield Problem("it loses jobs when it restarts", "set appendonly to yes", fatal=False)


def _writes(client: Redis, _: Settings, __: Look) -> list[Problem]:
    """Try whether it would write."""
    with suppress(NoPermissionError):  # of rights it is said more below
        client.delete(NOTHING)
    return []


def _rights(client: Redis, _: Settings, __: Look) -> Iterator[Problem]:
    """Each command that is needed, on keys of our own; and a right to Celery's keys."""
    keys = {letter: f"{PREFIX}trial:{secrets.token_hex(8)}:{letter}" for letter in "hzlsxvw"}
    commands = [each.format(**keys).split() for each in COMMANDS.replace("\n", "|").split("|") if each]
    commands += [["PEXPIRE", key, str(LEFT_SECONDS * 1000)] for key in keys.values()]
    commands += [["SREM", key, "nothing"] for key in CELERY_KEYS]  # refused for their kind, if at all
    commands += [["DEL", *keys.values()]]
    with client.pipeline(transaction=False) as pipe:
        for command in commands:
            pipe.execute_command(*command)
        answers = pipe.execute(raise_on_error=False)
    lacking = {
        _key(command[1]) if "access a key" in str(answer) else command[0]
        for command, answer in zip(commands, answers, strict=True)
        if isinstance(answer, NoPermissionError)
    }
    if lacking:
        yield _lacking(", ".join(sorted(lacking)))
    if any(isinstance(answer, OutOfMemoryError) for answer in answers):
        yield Problem("it is full", "raise maxmemory, or delete jobs", fatal=False)
    with client.pipeline(transaction=True) as pipe:
        pipe.exists(keys["h"])
        pipe.execute()
    client.register_script(TWO_KEYS)(args=[keys["h"], keys["z"]])


def _key(name: str) -> str:
    return f"keys {PREFIX}*" if name.startswith(PREFIX) else f"key {name}"


def _message(client: Redis, settings: Settings, found: Look) -> list[Problem]:
    """A message through Celery's own connection: sent, taken, put back, taken again, acknowledged."""
    if any(problem.found == "it is full" for problem in found.problems):
        return []
    name = f"{queue_name('trial', Priority.interactive)}-{secrets.token_hex(8)}"
    seconds = clients.ANSWER_SECONDS
    with make_celery(settings) as celery, celery.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1)
        with connection.SimpleQueue(name) as queue:
            queue.put({})
            client.pexpire(name, LEFT_SECONDS * 1000)
            queue.get(timeout=seconds).requeue()
            queue.get(timeout=seconds).ack()
            queue.queue.delete()
    return []


def _problem(error: Exception) -> Problem:
    """Judge an answer, or none."""
    said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    if isinstance(error, NoPermissionError):
        return _lacking(said)
    if "without MULTI" in said:
        return _lacking("MULTI")
    if isinstance(error, ClusterDownError | ClusterError | MovedError) or "hash to the same slot" in said:
        return _clustered()
    mend = "see the server's log" if isinstance(error, ResponseError) else "start it, or correct the address"
    if isinstance(error, Empty):
        said, mend = "a test message sent by Celery did not arrive", "see the server's log"
    elif isinstance(error, AuthenticationError):
        mend = "correct user and password"
    elif isinstance(error, NotPrimary):
        mend = "use the primary's address"
    elif "certificate" in said.lower():
        mend = "add the authority that signed its certificate: ?ssl_ca_certs=FILE"
    return Problem(said, mend)


def _clustered() -> Problem:
    return Problem(
        "the server is in cluster mode",
        "use a server without cluster mode, because the scripts need all keys in one place",
    )


def _lacking(what: str) -> Problem:
    return Problem(f"its user lacks rights ({what})", "docs/operations.md#redis lists the required rights")
