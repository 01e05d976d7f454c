"""A download that goes on where a lost connection left it."""

from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import httpx


class Download:
    """Download to a file that appears under its name only when it is whole.

    Args:
        path: of the file, which is replaced. Of a link, what it leads to.

    Raises:
        ValueError: the path leads to something else: a folder, a pipe or a device.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._whole = self.path.resolve()
        if self._whole.exists() and not self._whole.is_file():
            raise ValueError(f"path must lead to a file or to nothing yet, got {str(path)!r}")
        self._part = self._whole.with_name(f".{self._whole.name}.part")
        self._etag = ""
        self._file: BinaryIO | None = None

    def __enter__(self) -> "Download":
        self._file = self._part.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        self._file.close()
        if kind is None:
            self._part.replace(self._whole)
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
