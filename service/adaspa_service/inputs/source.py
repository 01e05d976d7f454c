"""What a request gave for an image: its bytes, or where they are."""

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

IN_MEMORY_BYTES = 256 * 1024
"""A larger image lies in a file, which has no name and goes when it is closed."""
CHUNK_BYTES = 64 * 1024
"""A multiple of four: so much base64 is whole bytes."""
HEADER = re.compile(rb"data:(?P<kind>[^;,]*)(;[^;,]*)*?;base64,", re.IGNORECASE)
MAX_HEADER_BYTES = 256
TAKEN = "a JPEG, PNG, WebP or AVIF image"


class ImageRefused(Exception):
    """An image cannot be taken; the message says why and what is allowed, and begins behind the field's name."""

    def __init__(self, message: str, status: int = 400, code: str = "invalid_image") -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Upload:
    """The bytes of an image."""

    file: IO[bytes]
    sha256: str

    @property
    def identity(self) -> str:
        """The same for the same image."""
        return f"sha256:{self.sha256}"


@dataclass(frozen=True)
class Url:
    """Address of an image."""

    url: str

    @property
    def identity(self) -> str:
        """The same for the same address."""
        return self.url


Source = Upload | Url


@contextmanager
def closing_all(sources: Iterable[Source]) -> Iterator[None]:
    """Close the images' files after the ``with`` block."""
    try:
        yield
    finally:
        for source in sources:
            if isinstance(source, Upload):
                source.file.close()


def too_large(limit: int) -> ImageRefused:
    """413 for an image of too many bytes."""
    return ImageRefused(f"is too large; allowed: up to {limit} bytes", 413, "image_too_large")


def scratch() -> IO[bytes]:
    """A file for an image that comes."""
    return SpooledTemporaryFile(IN_MEMORY_BYTES)


def uploaded(file: IO[bytes]) -> Upload:
    """An image from the file that it was received into."""
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    return Upload(file, digest.hexdigest())


def from_text(file: IO[bytes], limit: int) -> Source:
    """An image that was given as text: a data URI, or a URL.

    Args:
        file: the text, as JSON or a form had it.
        limit: bytes of the image.

    Raises:
        ImageRefused: it is neither, or too long.
    """
    file.seek(0)
    start = file.read(MAX_HEADER_BYTES)
    if start[:5].lower() == b"data:":
        header = HEADER.match(start)
        if header is None:
            raise ImageRefused(f"is not a base64 data URI; allowed: {TAKEN} as data:image/png;base64,...")
        if not header["kind"].lower().startswith(b"image/"):
            raise ImageRefused(f"is {shown(header['kind'].decode(errors='replace'))}; allowed: {TAKEN}")
        file.seek(header.end())
        return uploaded(decoded(file, limit))
    text = start + file.read(MAX_URL_CHARS + 1 - len(start))
    if len(text) > MAX_URL_CHARS:
        raise ImageRefused(f"is over {MAX_URL_CHARS} characters; allowed: a shorter URL, a data URI or a file")
    url = text.decode(errors="replace")
    if not re.match(rb"https?://", text, re.IGNORECASE):
        raise ImageRefused(f"{shown(url)} is not an image; allowed: an http or https URL, a data URI or a file")
    return Url(url)


def decoded(file: IO[bytes], limit: int) -> IO[bytes]:
    """The bytes of the base64 that is left in a file. Raises ImageRefused."""
    found, rest = scratch(), b""
    while chunk := file.read(CHUNK_BYTES):
        rest += b"".join(chunk.split())
        whole = len(rest) // 4 * 4 - 4  # the last four are the only ones that may be filled up with "="
        found.write(_bytes(rest[: max(0, whole)]))
        rest = rest[max(0, whole) :]
        if found.tell() > limit:
            raise too_large(limit)
    found.write(_bytes(rest))
    if found.tell() > limit:
        raise too_large(limit)
    if not found.tell():
        raise ImageRefused("is empty; allowed: an image")
    return found


def _bytes(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ImageRefused(f"has invalid base64; allowed: {TAKEN} as data:image/png;base64,...") from error
