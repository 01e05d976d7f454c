"""Animated WebP: plays wherever pictures do, in all colours."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from adaspa_worker.formats.base import Format

TIME_BASE = Fraction(1, 1000)
"""Frames last whole milliseconds."""
DESCRIPTION = 0x010E
"""Tag of EXIF that holds the comment."""
HAS_EXIF = 0x08
"""Flag in the head of a WebP."""


class WebP(Format):
    """A WebP that repeats for ever. The comment is the description in its EXIF data."""

    codec = "libwebp_anim"
    longest = 16383

    def __init__(self, path: Path, *, width: int, height: int, fps: int, comment: str) -> None:
        super().__init__(path, width=width, height=height, fps=fps, comment=comment)
        self._written = 0
        self._container = av.open(str(path), "w", format="webp", options={"loop": "0"})
        try:
            options = {"quality": "80", "compression_level": "2"}
            stream = self._container.add_stream(self.codec, rate=Fraction(fps), options=options)
            assert isinstance(stream, av.VideoStream)
            self._stream = stream
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "bgra"
            self._stream.time_base = self._stream.codec_context.time_base = TIME_BASE
        except BaseException:
            self._container.close()
            raise

    def write(self, frame: np.ndarray) -> None:
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgra")
        picture.pts, picture.time_base = round(self._written / self.fps / TIME_BASE), TIME_BASE
        self._written += 1
        self._container.mux(self._stream.encode(picture))

    def finish(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        add_exif(self.path, self.comment)

    def close(self) -> None:
        self._container.close()

    @staticmethod
    def read_comment(path: Path) -> str:
        with Image.open(path) as image:
            return str(image.getexif().get(DESCRIPTION, ""))


def add_exif(path: Path, comment: str) -> None:
    """Put a description into a WebP, which FFmpeg does not write itself.

    Args:
        path: the file, rewritten in place.
        comment: ASCII.
    """
    exif = Image.Exif()
    exif[DESCRIPTION] = comment
    with Image.open(path) as image:
        corner = b"".join((side - 1).to_bytes(3, "little") for side in image.size)
    chunks = path.read_bytes()[12:]
    if not chunks.startswith(b"VP8X"):  # a clip of equal frames is a still picture, which has no head yet
        chunks = chunk(b"VP8X", bytes(4) + corner) + chunks
    flags = bytes([chunks[8] | HAS_EXIF])
    end = chunk(b"EXIF", exif.tobytes().removeprefix(b"Exif\x00\x00"))
    path.write_bytes(chunk(b"RIFF", b"WEBP" + chunks[:8] + flags + chunks[9:] + end))


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a chunk of a RIFF file, filled up to an even length."""
    return name + len(data).to_bytes(4, "little") + data + bytes(len(data) % 2)


FORMAT = WebP
