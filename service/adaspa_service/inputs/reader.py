"""Limits and answers of the process that reads a video or a sound; each answer is a line of JSON."""

import json
import resource
import sys
from collections.abc import Callable, Collection
from fractions import Fraction
from typing import Any

import av
from adaspa_api.words import Kind

from adaspa_service.inputs.source import InputRefused

SECONDS = 120
"""Limit of processor time, in seconds."""
MEMORY_BYTES = 4 * 1024**3
"""Limit of address space, in bytes, of which the libraries alone take half a gigabyte."""
MOV = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
"""First atom of an MP4, M4A or MOV file, behind its four bytes of length."""


def codec_of(stream: Any, kind: Kind, decoders: Collection[str]) -> Any:
    """Return the codec of a file's video or sound. Raises InputRefused if it is none of these."""
    codec = stream.codec_context
    if codec is None:
        raise InputRefused(f"is damaged, or in an unknown codec; allowed: {kind.taken}")
    if codec.name not in decoders:
        raise InputRefused(f"is in {codec.name}; allowed: {kind.taken}")
    return codec


def damaged(kind: Kind, seconds: float | Fraction) -> InputRefused:
    """Return the refusal of a file that is damaged at a place, told in seconds from its beginning."""
    return InputRefused(f"is damaged at {max(0.0, float(seconds)):.2f} s; allowed: {kind.one} without damage")


def say(**answer: object) -> None:
    """Say a line."""
    print(json.dumps(answer), flush=True)


def read(main: Callable[[list[Any]], None], broken: str) -> None:
    """Call ``main`` with what the process is asked, within the limits, and say why a file is refused.

    Args:
        main: reads it. May raise InputRefused, and what libraries raise at broken files.
        broken: what is said of such.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        main(json.loads(sys.argv[1]))
    except InputRefused as error:
        say(refused=str(error), too_large=error.too_large)
    except (av.FFmpegError, ValueError):
        say(refused=broken, too_large=False)
