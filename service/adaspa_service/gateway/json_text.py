"""JSON as it comes, its images beside it: a long data URI goes into a file on the way, and a mark stands for it."""

import json
import re
import secrets
from collections import Counter
from typing import IO, Any, NoReturn

from adaspa_service.errors import ApiError, bad_field
from adaspa_service.inputs.source import scratch

LONG_BYTES = 64 * 1024
"""A string that begins as a data URI and is longer goes into a file."""
ENDING = re.compile(rb'["\\]')
ESCAPE = re.compile(rb"\\(?:u[0-9a-fA-F]{4}|[^u])")
ESCAPE_BYTES = 6
"""Length of the longest escape."""


class TextTooLarge(Exception):
    """There is more text than is taken."""


class JsonText:
    """Takes JSON in piece by piece.

    Args:
        most: bytes of all that does not go into files.
        most_of_one: bytes that are kept of a data URI. Of a longer one so much is kept that it is seen to be too long.
        most_files: data URIs that go into files; others are text.
    """

    def __init__(self, most: int, most_of_one: int, most_files: int) -> None:
        self.text = bytearray()
        self.files: dict[str, IO[bytes]] = {}
        """Data URIs without their escapes, by the marks that stand there now."""
        self._most, self._most_of_one, self._most_files = most, most_of_one, most_files
        self._string: bytearray | None = None
        """Text of a string so far, if it has not gone into a file."""
        self._file: IO[bytes] | None = None
        self._escaped = False
        self._partial = b""
        """Start of an escape that is cut, in a string that goes into a file."""

    def feed(self, piece: bytes) -> None:
        """Take the next bytes. Raises TextTooLarge."""
        at = 0
        while at < len(piece):
            if self._string is None and self._file is None:
                end = piece.find(b'"', at) + 1 or len(piece)
                self._keep(piece[at:end])
                if piece[end - 1 : end] == b'"':
                    self._string = bytearray()
            elif self._escaped:
                end = at + 1
                self._add(piece[at:end])
                self._escaped = False
            else:
                found = ENDING.search(piece, at)
                end = found.end() if found else len(piece)
                if found and found.group() == b'"':
                    self._add(piece[at : end - 1])
                    self._close()
                else:
                    self._add(piece[at:end])
                    self._escaped = found is not None
            at = end

    def _keep(self, piece: bytes | bytearray) -> None:
        self.text += piece
        if len(self.text) > self._most:
            raise TextTooLarge

    def _add(self, piece: bytes) -> None:
        """Add to the string that is open."""
        if self._file is not None:
            if self._file.tell() < self._most_of_one:
                self._write(piece)
            return
        assert self._string is not None
        self._string += piece
        long = len(self._string) > LONG_BYTES and self._string[:5].lower() == b"data:"
        if long and len(self.files) < self._most_files:
            self._file, string, self._string = scratch(), self._string, None
            self._write(string)
        elif len(self.text) + len(self._string) > self._most:
            raise TextTooLarge

    def _write(self, piece: bytes | bytearray) -> None:
        """Write to the file, as text: some encoders escape slashes, some equals signs, and line breaks always are."""
        assert self._file is not None
        text = self._partial + piece
        last = text.rfind(b"\\", max(0, len(text) - ESCAPE_BYTES + 1))
        end = len(text) if last < 0 else last
        self._partial = text[end:]
        self._file.write(ESCAPE.sub(_unescaped, text[:end]))

    def _close(self) -> None:
        if self._file is not None:
            self._file.write(ESCAPE.sub(_unescaped, self._partial))
            self._partial = b""
            mark = secrets.token_hex(16)
            self.files[mark] = self._file
            self._keep(mark.encode() + b'"')
        else:
            assert self._string is not None
            self._keep(self._string + b'"')
        self._string = self._file = None


def _unescaped(escape: re.Match[bytes]) -> bytes:
    """Resolve an escape; leave it if it means nothing, and then it is no base64 either."""
    try:
        return str(json.loads(b'"%s"' % escape.group())).encode(errors="replace")
    except ValueError:
        return escape.group()


def json_object(text: bytes, field: str | None = None) -> dict[str, Any]:
    """Read a JSON object, as `json_value` does."""
    data = json_value(text, field)
    if not isinstance(data, dict):
        raise not_json(field, "is not a JSON object; allowed: an object")
    return data


def json_value(text: bytes, field: str | None = None) -> Any:
    """Read JSON by the standard: no NaN, no name twice, and no half of a surrogate pair, which is no text.

    Args:
        text: the body, or what ``field`` of a form has.
        field: to be named in the error.

    Raises:
        ApiError: 400.
    """
    try:
        data = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
        json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise not_json(field, f"is not JSON: {reason}") from error
    return data


def not_json(field: str | None, why: str) -> ApiError:
    """Return the refusal of a body, or of what a field has."""
    return bad_field(field, f"{field}: {why}" if field else f"the body {why}", "invalid_json")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        times = Counter(name for name, _ in pairs)
        twice = next(name for name, number in times.items() if number > 1)
        raise bad_field(twice, f"{twice}: given more than once", "duplicate_parameter")
    return data
