"""GIF: 256 colours a frame; plays where no video does."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from adaspa_worker.formats.base import Format

TIME_BASE = Fraction(1, 100)
"""A GIF's frames last whole hundredths of a second."""


class Gif(Format):
    """A GIF that repeats for ever, each frame with a palette of its own. The comment is one of the GIF's."""

    codec = "gif"
    longest = 65535

    def __init__(self, path: Path, *, width: int, height: int, fps: int, comment: str) -> None:
        super().__init__(path, width=width, height=height, fps=fps, comment=comment)
        self._pushed = self._pulled = 0
        self._graph = palette_graph(width, height, fps)
        self._container = av.open(str(path), "w", format="gif", options={"loop": "0"})
        try:
            self._stream = self._container.add_stream("gif", rate=Fraction(fps))
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "pal8"
            self._stream.time_base = self._stream.codec_context.time_base = TIME_BASE
        except BaseException:
            self._container.close()
            raise

    def write(self, frame: np.ndarray) -> None:
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture.pts, picture.time_base = self._pushed, Fraction(1, self.fps)
        self._pushed += 1
        self._graph.push(picture)
        self._encode_ready()

    def finish(self) -> None:
        self._graph.push(None)
        self._encode_ready()
        self._container.mux(self._stream.encode(None))
        self._container.close()
        if self.comment:  # an empty one ends the file for some decoders
            insert_comment(self.path, self.comment)

    def close(self) -> None:
        self._container.close()

    @staticmethod
    def read_comment(path: Path) -> str:
        with Image.open(path) as image:
            comment: bytes = image.info.get("comment", b"")
        return comment.decode("ascii", "replace")

    def _encode_ready(self) -> None:
        for picture in self._ready():
            picture.pts, picture.time_base = round(self._pulled / self.fps / TIME_BASE), TIME_BASE
            self._pulled += 1
            self._container.mux(self._stream.encode(picture))

    def _ready(self) -> Iterator[av.VideoFrame]:
        with suppress(BlockingIOError, av.error.EOFError):  # it wants another frame, or has had the last one
            while True:
                picture = self._graph.pull()
                assert isinstance(picture, av.VideoFrame)
                yield picture


def palette_graph(width: int, height: int, fps: int) -> av.filter.Graph:
    """Filters that give each RGB frame the 256 colours that suit it best, with no frame held back."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=Fraction(1, fps))
    split, palette = graph.add("split"), graph.add("palettegen", "stats_mode=single")
    apply, sink = graph.add("paletteuse", "new=1:dither=bayer:bayer_scale=4"), graph.add("buffersink")
    source.link_to(split)
    split.link_to(apply, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(apply, 0, 1)
    apply.link_to(sink)
    graph.configure()
    return graph


def insert_comment(path: Path, comment: str) -> None:
    """Put a comment before the first image of a GIF, which FFmpeg does not write itself.

    Args:
        path: the file, rewritten in place.
        comment: ASCII, as the format (GIF89a, comment extension) has it.
    """
    text = comment.encode("ascii")
    blocks = b"".join(bytes([len(part)]) + part for part in (text[i : i + 255] for i in range(0, len(text), 255)))
    commented = path.with_name(f"{path.name}.part")
    with path.open("rb") as old, commented.open("wb") as new:
        head = old.read(13)
        packed = head[10]
        palette = old.read(3 * 2 ** ((packed & 7) + 1) if packed & 0x80 else 0)
        new.write(head + palette + b"\x21\xfe" + blocks + b"\x00")
        shutil.copyfileobj(old, new)
    commented.replace(path)


FORMAT = Gif
