"""A data folder: its lock, and the Valkey server that stores its data there."""

import fcntl
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

import redis
from adaspa_jobs.connections import connections

from adaspa_service.local import valkey
from adaspa_service.local.process import Child

LATE_SECONDS = 5.0
"""Time after which the user is told about parts that are not ready."""
LOCK_SECONDS = 3.0
"""Seconds that a second service waits for the data folder; a killed supervisor frees it in about one second."""


class LocalError(Exception):
    """Failure to start or continue the service; the message is one line."""


def claim(data_dir: Path) -> TextIO:
    """Create the folder and lock it for as long as the returned file is open. Raises LocalError."""
    try:
        for name in ("run", "logs"):
            (data_dir / name).mkdir(parents=True, exist_ok=True)
        lock = (data_dir / "run" / "lock").open("w")
    except OSError as error:
        raise LocalError(f"data folder {data_dir}: {error.strerror}") from error
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                lock.close()
                raise LocalError(f"another service is using data folder {data_dir}; use --data-dir") from error
            time.sleep(0.1)


def identity(data_dir: Path) -> str:
    """Return a random name that the folder keeps: its service's, whenever that starts."""
    path = data_dir / "run" / "id"
    if not path.exists() or not path.read_text():  # a kill may leave an empty file
        path.write_text(secrets.token_hex(4))
    return path.read_text()


def valkey_url(data_dir: Path) -> str:
    """Return the address of the folder's server."""
    return socket_url(valkey.socket_path(data_dir))


def socket_url(sock: Path) -> str:
    """Return the address of a server on a socket."""
    return f"unix://{quote(str(sock))}?db=0"


def valkey_child(data_dir: Path, environment: Mapping[str, str], lock: TextIO) -> Child:
    """Return the folder's server, not yet started."""
    sock = valkey.socket_path(data_dir)
    return Child(
        "valkey",
        valkey.command(data_dir, sock),
        data_dir / "logs",
        environment,
        ready=lambda: answers_ping(sock),
        orphan_signal=signal.SIGTERM,  # it still writes its append-only file out
        keep_open=(lock.fileno(),),  # the folder is free only when nobody writes there
    )


def wait_until_ready(children: list[Child], say: Callable[[str], None] = lambda _: None) -> None:
    """Wait until all children are ready.

    Args:
        children: started children.
        say: receives a line about children that take longer than usual.

    Raises:
        LocalError: a child ended, or is not ready in time.
    """
    begun, told = time.monotonic(), False
    while late := [child for child in children if not child.is_ready()]:
        for child in children:
            if child.exit_status() is not None:
                raise LocalError(f"{child.name} did not start: {child.last_words()}")
        waited = time.monotonic() - begun
        for child in late:
            if waited > child.start_seconds:
                raise LocalError(f"{child.name} is not ready after {child.start_seconds:.0f} s; see {child.log_dir}")
        if waited > LATE_SECONDS and not told:
            told = True
            say(f"waiting for {', '.join(child.name for child in late)} to start; logs are in {late[0].log_dir}")
        time.sleep(0.05)


@contextmanager
def reachable_redis(data_dir: Path) -> Iterator[str]:
    """Yield the address of the service's Redis: ADASPA_REDIS_URL, or that of the folder's server.

    If no service runs on the folder, its server runs for the duration of the ``with`` block. Raises LocalError.
    """
    if url := os.environ.get("ADASPA_REDIS_URL"):
        yield url
        return
    data_dir = data_dir.resolve()
    if answers_ping(valkey.socket_path(data_dir)):
        yield valkey_url(data_dir)
        return
    with claim(data_dir) as lock:
        server = valkey_child(data_dir, os.environ, lock)
        server.start()
        try:
            wait_until_ready([server])
            yield valkey_url(data_dir)
        finally:
            server.stop(lambda: False)


def answers_ping(sock: Path) -> bool:
    """Return whether a server listens there and is ready."""
    try:
        with connections(f"{socket_url(sock)}&socket_timeout=2").client() as client:
            return bool(client.ping())
    except redis.RedisError:  # not yet there, or still loading its append-only file
        return False
