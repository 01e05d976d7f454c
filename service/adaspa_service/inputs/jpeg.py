"""Cost of reading a JPEG file, by its markers alone: a few bytes of it may stand for a pass over all pixels."""

import re
from typing import IO

from adaspa_service.inputs.source import InputRefused

MAX_SCANS = 64
"""Passes over the image: a progressive one has some ten, and each costs as much as if the file ended there."""
MAX_SEGMENTS = 1000
"""Tables, tags and scans: a large colour profile or thumbnail is in some hundred pieces of 64 KB."""
SEGMENT = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
"""Markers that a length follows; in a scan's data they end it. Without one are TEM (1) and restarts (d0 to d7)."""
START, END, SCAN = 0xD8, 0xD9, 0xDA


def check_cost(file: IO[bytes]) -> None:
    """Refuse a JPEG of very many scans or segments: hours of work, or much memory. Other files are not looked at.

    Raises:
        InputRefused: it is such a one.
    """
    file.seek(0)
    if file.read(2) != bytes([0xFF, START]):
        return
    content = file.read()
    at = scans = segments = 0
    while (found := SEGMENT.search(content, at)) and content[found.end() - 1] != END:
        segments += 1
        scans += content[found.end() - 1] == SCAN
        if scans > MAX_SCANS or segments > MAX_SEGMENTS:
            why = f"has too many JPEG scans or segments; allowed: up to {MAX_SCANS} scans and {MAX_SEGMENTS} segments"
            raise InputRefused(why)
        at = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")
