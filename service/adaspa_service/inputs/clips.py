"""A video from a client: its last frames, turned upright and fitted to the size of the video that goes on from them.

They are read in a process of their own (``adaspa_service.inputs.read_clip``): of all that a request may bring, a video
has the most work and the most code behind it, and what goes wrong there is to end nothing else.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

from adaspa_api.words import Kind

from adaspa_service.inputs.source import InputRefused

log = logging.getLogger(__name__)

MODULE = "adaspa_service.inputs.read_clip"
CONTENT_TYPE = "video/webm"
PASSED_ON = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
"""Environment of the process, without secrets."""


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
    asked = json.dumps([str(source), str(target), *tail, *limits, contain])
    env = {name: value for name in PASSED_ON if (value := os.environ.get(name)) is not None}
    with (
        TemporaryFile("w+", errors="replace") as said,
        subprocess.Popen(
            [sys.executable, "-m", MODULE, asked],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=env,
        ) as process,
    ):
        assert process.stdin and process.stdout
        try:
            size = size_of(*_answer(process.stdout.readline(), said)["size"])
            process.stdin.write(json.dumps(size))
            process.stdin.close()
            _answer(process.stdout.readline(), said)
        finally:
            process.kill()
    return size


def _answer(line: str, said: IO[str]) -> dict[str, Any]:
    """Read what the process answered. Raises InputRefused."""
    if not line:  # it has ended: it had its share of time and memory, or broke down
        said.seek(0)
        log.warning("a video could not be read: %s", "".join(said.readlines()[-1:]).strip() or "the process was ended")
        raise InputRefused(f"is damaged, or takes too much time or memory to read; allowed: {Kind.video.taken}")
    answer: dict[str, Any] = json.loads(line)
    if "refused" in answer:
        raise InputRefused(answer["refused"], too_large=answer["too_large"])
    return answer
