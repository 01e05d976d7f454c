"""A video in a container of FFmpeg's, with its sound: what MP4 and WebM share."""

from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from adaspa_worker.formats.base import Format
from adaspa_worker.sound import Sound

THREADS = 2
"""Threads of an encoder. Fixed, because the output depends on it: a seed gives the same file on every machine."""
SOUND_BITS = 96_000
"""Bits per second of each sound channel."""


class Stream(Format):
    """A container with a video, yuv420p, and with its sound if there is one. The comment is a tag of the container.

    The colours are BT.709's at every size, and said to be: players guess where nothing is said.

    The sound lasts as long as the frames, to the nearest sample: each frame brings its share. What is over is left
    out, what is missing is silent.
    """

    step = 2  # yuv420p halves the colour planes
    options: ClassVar[dict[str, str]]
    """Options of the encoder."""
    container_options: ClassVar[dict[str, str]]
    sound_codec: ClassVar[str]
    """FFmpeg's encoder of the sound."""
    sound_rate: ClassVar[int | None] = None
    """Samples a second of the file's sound; None: those that the sound has."""

    def __init__(self, path: Path, *, width: int, height: int, fps: int, comment: str) -> None:
        super().__init__(path, width=width, height=height, fps=fps, comment=comment)
        self._frames = 0
        self._sound: Sound | None = None
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
        self._frames += 1
        if self._sound is not None:
            self._write_share(self._sound)

    def add_sound(self, sound: Sound) -> None:
        self._sound = sound.at(self.sound_rate or sound.rate)
        stream = self._container.add_stream(self.sound_codec, rate=self._sound.rate)
        assert isinstance(stream, av.AudioStream)
        self._sound_stream = stream
        stream.layout = sound.layout
        stream.bit_rate = SOUND_BITS * len(sound.samples)

    def finish(self) -> None:
        self._container.mux(self._stream.encode(None))
        if self._sound is not None:
            self._container.mux(self._sound_stream.encode(None))

    def close(self) -> None:
        self._container.close()

    def _write_share(self, sound: Sound) -> None:
        """Append the sound of the last frame."""
        begin, end = (round(count * sound.rate / self.fps) for count in (self._frames - 1, self._frames))
        self._container.mux(self._sound_stream.encode(sound.part(begin, end)))

    @staticmethod
    def read_comment(path: Path) -> str:
        with av.open(str(path)) as container:
            tags = {name.lower(): value for name, value in container.metadata.items()}
        return tags.get("comment", "")
