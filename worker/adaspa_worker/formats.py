"""The video's file formats: frames in, one by one, a file of that format out."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from adaspa_api.words import OutputFormat
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

GIF_TIME_BASE = Fraction(1, 100)
"""A GIF's frames last whole hundredths of a second."""


class Encoder(ABC):
    """An open file that takes frames.

    Args:
        path: file to write.
        width, height: pixels.
        fps: frames per second.
        comment: ASCII text that the file carries, to be read back by ``recipe.read_recipe``.
    """

    def __init__(self, path: Path, *, width: int, height: int, fps: int, comment: str) -> None:
        self.path, self.width, self.height, self.fps, self.comment = path, width, height, fps, comment

    @abstractmethod
    def write(self, frame: np.ndarray) -> None:
        """Append one frame: uint8 RGB, shape [height, width, 3]."""

    @abstractmethod
    def finish(self) -> None:
        """Write what the encoder still holds."""

    @abstractmethod
    def close(self) -> None:
        """Close the file; it is whole only after ``finish``."""


class Codec(NamedTuple):
    """How FFmpeg is to write a container's only stream."""

    name: str
    options: dict[str, str]
    container_options: dict[str, str]
    threads: int
    """Fixed, because the output depends on it: a seed gives the same file on every machine."""


CODECS = {
    # The index first, so that players start before the download ends.
    # Without "mbtree", x264's look-ahead: with it the same frames now and then come out a few bytes different.
    OutputFormat.mp4: Codec(
        "libx264",
        {"preset": "veryfast", "crf": "18", "x264-params": "mbtree=0"},
        {"movflags": "+faststart"},
        threads=2,
    ),
    # "bitexact": no random numbers as names of its parts.
    OutputFormat.webm: Codec(
        "libvpx-vp9",
        {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "5", "row-mt": "1"},
        {"fflags": "+bitexact"},
        threads=2,
    ),
}


class VideoEncoder(Encoder):
    """H.264 in MP4 or VP9 in WebM, yuv420p. The comment is a tag of the container.

    The colours are BT.709's at every size, and said to be: players guess where nothing is said.
    """

    def __init__(self, path: Path, codec: Codec, *, width: int, height: int, fps: int, comment: str) -> None:
        super().__init__(path, width=width, height=height, fps=fps, comment=comment)
        self._container = av.open(str(path), "w", options=codec.container_options)
        try:
            self._container.metadata["comment"] = comment
            stream = self._container.add_stream(codec.name, rate=Fraction(fps), options=codec.options)
            assert isinstance(stream, av.VideoStream)
            self._stream = stream
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
            context = self._stream.codec_context
            context.thread_count = codec.threads
            context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
            context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        except BaseException:
            self._container.close()
            raise

    def write(self, frame: np.ndarray) -> None:
        rgb = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture = rgb.reformat(
            format="yuv420p",
            src_color_range=ColorRange.JPEG,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            dst_color_primaries=ColorPrimaries.BT709,
            dst_color_trc=ColorTrc.BT709,
        )
        self._container.mux(self._stream.encode(picture))

    def finish(self) -> None:
        self._container.mux(self._stream.encode(None))

    def close(self) -> None:
        self._container.close()


class GifEncoder(Encoder):
    """A GIF that repeats for ever, each frame with a palette of its own. The comment is one of the GIF's."""

    def __init__(self, path: Path, *, width: int, height: int, fps: int, comment: str) -> None:
        super().__init__(path, width=width, height=height, fps=fps, comment=comment)
        self._pushed = self._pulled = 0
        self._graph = palette_graph(width, height, fps)
        self._container = av.open(str(path), "w", format="gif", options={"loop": "0"})
        try:
            self._stream = self._container.add_stream("gif", rate=Fraction(fps))
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "pal8"
            self._stream.time_base = self._stream.codec_context.time_base = GIF_TIME_BASE
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
            insert_gif_comment(self.path, self.comment)

    def close(self) -> None:
        self._container.close()

    def _encode_ready(self) -> None:
        for picture in self._ready():
            picture.pts, picture.time_base = round(self._pulled / self.fps / GIF_TIME_BASE), GIF_TIME_BASE
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


def insert_gif_comment(path: Path, comment: str) -> None:
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


def open_encoder(
    path: Path, output_format: OutputFormat, *, width: int, height: int, fps: int, comment: str
) -> Encoder:
    """The encoder of a format, with its file open."""
    if output_format is OutputFormat.gif:
        return GifEncoder(path, width=width, height=height, fps=fps, comment=comment)
    return VideoEncoder(path, CODECS[output_format], width=width, height=height, fps=fps, comment=comment)
