"""Source of a file that a request gave: its bytes, or where they are."""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO

from adaspa_api.fields import MAX_URL_CHARS
from adaspa_api.limits import shown
from adaspa_api.words import Kind

IN_MEMORY_BYTES = 256 * 1024
"""A larger one lies in a file, which has no name and goes when it is closed."""
CHUNK_BYTES = 64 * 1024
"""A multiple of four: so much base64 is whole bytes."""
HEADER = re.compile(rb"data:(?P<kind>[^;,]*)(;[^;,]*)*?;base64,", re.IGNORECASE)
MAX_HEADER_BYTES = 256


class InputRefused(Exception):
    """An image, a video or a sound cannot be taken.

    Args:
        message: why, and what is allowed, behind the field's name.
        status: of HTTP.
        too_large: whether it has too many bytes or pixels.
    """

    def __init__(self, message: str, status: int = 400, *, too_large: bool = False) -> None:
        super().__init__(message)
        self.status, self.too_large = status, too_large

    def code(self, kind: Kind) -> str:
        """Return the error code for a file of this kind."""
        return f"{kind}_too_large" if self.too_large else f"invalid_{kind}"


@dataclass(frozen=True)
class Upload:
    """Upload that brought its bytes."""

    file: IO[bytes]
    sha256: str

    @property
    def identity(self) -> str:
        """Digest of the bytes."""
        return f"sha256:{self.sha256}"


@dataclass(frozen=True)
class Url:
    """Address of a file."""

    url: str

    @property
    def identity(self) -> str:
        """Digest of the address."""
        return self.url


Source = Upload | Url


@contextmanager
def closing_all(sources: Iterable[Source]) -> Iterator[None]:
    """Close the files after the ``with`` block."""
    try:
        yield
    finally:
        for source in sources:
            if isinstance(source, Upload):
                source.file.close()


def too_large(limit: int) -> InputRefused:
    """413 for an input of too many bytes."""
    return InputRefused(f"is too large; allowed: up to {limit} bytes", 413, too_large=True)


def scratch() -> IO[bytes]:
    """A file for what comes."""
    return SpooledTemporaryFile(IN_MEMORY_BYTES)


def uploaded(file: IO[bytes]) -> Upload:
    """Wrap what was received into a file."""
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    return Upload(file, digest.hexdigest())


def from_text(file: IO[bytes], kind: Kind, limit: int) -> Source:
    """A file that was given as text: a data URI, or a URL.

    Args:
        file: the text, as JSON or a form had it.
        kind: what it is.
        limit: its bytes.

    Raises:
        InputRefused: it is neither, or too long.
    """
    file.seek(0)
    start = file.read(MAX_HEADER_BYTES)
    if start[:5].lower() == b"data:":
        header = HEADER.match(start)
        if header is None:
            raise InputRefused(f"is not a base64 data URI; allowed: {as_uri(kind)}")
        if not header["kind"].lower().startswith(f"{kind}/".encode()):
            raise InputRefused(f"is {shown(header['kind'].decode(errors='replace'))}; allowed: {kind.taken}")
        file.seek(header.end())
        return uploaded(decoded(file, kind, limit))
    text = start + file.read(MAX_URL_CHARS + 1 - len(start))
    if len(text) > MAX_URL_CHARS:
        raise InputRefused(f"is over {MAX_URL_CHARS} characters; allowed: a shorter URL, a data URI or a file")
    url = text.decode(errors="replace")
    if not re.match(rb"https?://", text, re.IGNORECASE):
        raise InputRefused(f"{shown(url)} is not {kind.one}; allowed: an http or https URL, a data URI or a file")
    return Url(url)


def as_uri(kind: Kind) -> str:
    """Say in words how a data URI of it is written."""
    return f"{kind.taken} as data:{kind}/...;base64,..."


def decoded(file: IO[bytes], kind: Kind, limit: int) -> IO[bytes]:
    """Decode the base64 that is left in a file. Raises InputRefused."""
    found, rest = scratch(), b""
    while chunk := file.read(CHUNK_BYTES):
        rest += b"".join(chunk.split())
        whole = len(rest) // 4 * 4 - 4  # the last four are the only ones that may be filled up with "="
        found.write(_bytes(rest[: max(0, whole)], kind))
        rest = rest[max(0, whole) :]
        if found.tell() > limit:
            raise too_large(limit)
    found.write(_bytes(rest, kind))
    if found.tell() > limit:
        raise too_large(limit)
    if not found.tell():
        raise InputRefused(f"is empty; allowed: {kind.taken}")
    return found


def _bytes(text: bytes, kind: Kind) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise InputRefused(f"has invalid base64; allowed: {as_uri(kind)}") from error
