"""HTTP conditions and ranges (RFC 9110): what of a file a request is to get."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers

RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,100})-([0-9]{0,100})[ \t]*", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Selection:
    """Bytes ``start`` to ``end`` (exclusive) of a file, and the status they are sent with."""

    status: int
    start: int
    end: int


def select(headers: Mapping[str, str], size: int, etag: str) -> Selection:
    """Select what to send of a file.

    Args:
        headers: of a GET request, each once.
        size: of the file in bytes.
        etag: its strong entity tag, with the quotes.

    Returns:
        412 for another file than is wanted, 304 not modified and 416 not satisfiable (all without bytes), 206 for one
        range, and 200 for the whole file: also when several ranges, another unit or nonsense is asked for, which a
        server may ignore.
    """
    wanted = headers.get("if-match")
    if wanted is not None and wanted.strip() != "*" and etag not in map(str.strip, wanted.split(",")):
        return Selection(412, 0, 0)
    if etag_listed(headers.get("if-none-match", ""), etag):
        return Selection(304, 0, 0)
    whole = Selection(200, 0, size)
    match = RANGE.fullmatch(headers.get("range", ""))
    if match is None or headers.get("if-range", etag) != etag:
        return whole
    first, last = match.groups()
    if not first and not last:
        return whole
    if not first:  # the last so many bytes
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return whole
    return Selection(206, start, end) if start < end else Selection(416, 0, 0)


def combined(headers: Headers) -> dict[str, str]:
    """Return the headers by name. One that came in several lines is their list (RFC 9110, section 5.3)."""
    return {name: ", ".join(headers.getlist(name)) for name in headers}


def etag_listed(header: str, etag: str) -> bool:
    """Tell whether an If-None-Match header names the tag; weak comparison, as that header asks for."""
    if header.strip() == "*":
        return True
    return etag in (tag.strip().removeprefix("W/") for tag in header.split(","))
