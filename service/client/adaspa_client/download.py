"""A download that goes on where a lost connection left it."""

import os
import time
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import BinaryIO

import httpx

ABANDONED_SECONDS = 86400.0
"""Seconds without a write after which a part is one of a download that was killed."""


def is_file(content_type: str) -> bool:
    """True if a video or a picture may be of this type: an error, a page to sign in and an API's answer are not."""
    return not content_type.startswith(("text/", "application/json"))


def destination(path: str | Path) -> Path:
    """Return the file that a path leads to, there or not yet.

    Raises:
        ValueError: the path leads to something else: a folder, a pipe or a device.
        OSError: the path cannot be looked at, such as one with too long a name.
    """
    whole = Path(os.path.realpath(path))
    if whole.exists() and not whole.is_file():
        raise ValueError(f"path must lead to a file or to nothing yet, got {str(path)!r}")
    return whole


class Download:
    """Download to a file that appears under its name only when it is whole.

    Until then its part is a hidden file of its own beside it, so that of several downloads to one path the last to end
    wins. What killed downloads left in that folder a day ago is removed.

    Args:
        path: of the file, which is replaced. Of a link, what it leads to.

    Raises:
        ValueError: the path leads to something else: a folder, a pipe or a device.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._whole = destination(path)
        self._part = self._whole.with_name(f".adaspa-{token_hex(8)}.part")
        self._etag = ""
        self._file: BinaryIO | None = None

    def __enter__(self) -> "Download":
        for part in self._whole.parent.glob(".adaspa-*.part"):
            with suppress(OSError):  # it is gone, or another user's
                if time.time() - part.stat().st_mtime > ABANDONED_SECONDS:
                    part.unlink()
        self._file = self._part.open("xb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        try:
            self._file.close()
            if kind is None:
                self._part.replace(self._whole)
        finally:
            self._part.unlink(missing_ok=True)

    @property
    def received(self) -> int:
        """Bytes so far."""
        assert self._file is not None
        return self._file.tell()

    def headers(self) -> dict[str, str]:
        """Return the headers of the next request, which ask for what is missing, of the same file."""
        if not self.received or not self._etag:
            return {}
        return {"Range": f"bytes={self.received}-", "If-Range": self._etag}

    def begin(self, response: httpx.Response) -> None:
        """A response has begun: it goes on with the file, or is the whole of it."""
        assert self._file is not None
        self._etag = response.headers.get("etag", "")
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            self._file.seek(0)
            self._file.truncate()

    def write(self, chunk: bytes) -> None:
        """Write the next bytes."""
        assert self._file is not None
        self._file.write(chunk)
