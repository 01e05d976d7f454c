"""A video stream in a container of FFmpeg's: what MP4 and WebM share."""

from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from adaspa_worker.formats.base import Format

THREADS = 2
"""Of an encoder. Fixed, because the output depends on it: a seed gives the same file on every machine."""


class Stream(Format):
    """A container with one stream, yuv420p. The comment is a tag of the container.

    The colours are BT.709's at every size, and said to be: players guess where nothing is said.
    """

    step = 2  # yuv420p halves the colour planes
    options: ClassVar[dict[str, str]]
    """Of the encoder."""
    container_options: ClassVar[dict[str, str]]

    def __init__(self, path: Path, *, width: int, height: int, fps: int, comment: str) -> None:
        super().__init__(path, width=width, height=height, fps=fps, comment=comment)
        self._container = av.open(str(path), "w", options=self.container_options)
        try:
            self._container.metadata["comment"] = comment
            stream = self._container.add_stream(self.codec, rate=Fraction(fps), options=self.options)
            assert isinstance(stream, av.VideoStream)
            self._stream = stream
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
            context = self._stream.codec_context
            context.thread_count = THREADS
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

    @staticmethod
    def read_comment(path: Path) -> str:
        with av.open(str(path)) as container:
            tags = {name.lower(): value for name, value in container.metadata.items()}
        return tags.get("comment", "")
