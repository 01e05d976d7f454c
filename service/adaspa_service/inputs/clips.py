"""A video from a client: its last frames, turned upright and fitted to the size of the video that goes on from them.

They are read in a process of their own, ``adaspa_service.inputs.read_clip``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from adaspa_api.words import Kind

from adaspa_service.inputs.apart import apart

MODULE = "adaspa_service.inputs.read_clip"
CONTENT_TYPE = "video/webm"


class Tail(NamedTuple):
    """Tail of a video.

    Args:
        frames: how many.
        fps: frames per second.
    """

    frames: int
    fps: int


class ClipLimits(NamedTuple):
    """Limits of a video: pixels of a frame, and frames."""

    pixels: int
    frames: int


def write_tail(
    source: Path,
    target: Path,
    tail: Tail,
    limits: ClipLimits,
    size_of: Callable[[int, int], tuple[int, int]],
    *,
    contain: bool,
) -> tuple[int, int]:
    """Write the end of a video as a WebM file without loss; the size that it has there.

    Args:
        source: what a client sent.
        target: the file to write.
        tail: how much of it.
        limits: of the video.
        size_of: chooses the size, by width and height of the upright video.
        contain: whether another shape is contained in that, with black, or covers it and is cut off.

    Raises:
        InputRefused: it is no such video, is broken, or goes over a limit.
    """
    with apart(MODULE, Kind.video, str(source), str(target), *tail, *limits, contain) as reader:
        size = size_of(*reader.answer()["size"])
        reader.tell(size)
        reader.answer()
    return size
