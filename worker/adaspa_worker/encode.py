"""Frames to files: a video written frame by frame, a thumbnail and a spritesheet."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from adaspa_api.words import OutputFormat
from PIL import Image

from adaspa_worker import formats
from adaspa_worker.sound import Sound

SHEET_COLUMNS = 4
SHEET_FRAMES = 16
SHEET_SIDE = 320
"""Longest side of one frame on the spritesheet, in pixels."""


class VideoWriter:
    """Encode RGB frames to a video, and keep what its pictures need.

    One frame is in memory at a time, apart from the encoder's own look-ahead and the small copies kept for
    the spritesheet.

    Args:
        path: file to write. It is complete only after the ``with`` block ended without an exception.
        output_format: of the file.
        width, height: pixels.
        fps: frames per second.
        num_frames: how many frames will come, at least 1; the spritesheet takes its frames evenly from them.
        comment: text that the file carries.

    Raises:
        ValueError: a size that the format cannot hold, a frame of another shape or dtype, or another number of frames.
    """

    def __init__(
        self,
        path: Path,
        output_format: OutputFormat = OutputFormat.mp4,
        *,
        width: int,
        height: int,
        fps: int,
        num_frames: int,
        comment: str = "",
    ) -> None:
        self.path, self.format, self.comment = path, formats.of(output_format), comment
        self.format.check_size(width, height)
        self.width, self.height, self.fps, self.num_frames = width, height, fps, num_frames
        self.written = 0
        self._sheet_at = set(sheet_indices(num_frames))
        self._sheet: list[Image.Image] = []

    def __enter__(self) -> "VideoWriter":
        self._file = self.format(self.path, width=self.width, height=self.height, fps=self.fps, comment=self.comment)
        return self

    def add_sound(self, sound: Sound) -> None:
        """Take a sound, before the first frame: cut off where the frames end, silent where it ends earlier."""
        self._file.add_sound(sound)

    def write(self, frame: np.ndarray) -> None:
        """Append one frame: uint8 RGB, shape [height, width, 3]."""
        if frame.shape != (self.height, self.width, 3) or frame.dtype != np.uint8:
            raise ValueError(
                f"a frame must be uint8 of shape ({self.height}, {self.width}, 3), got {frame.dtype} of {frame.shape}"
            )
        self._file.write(frame)
        if self.written == 0:
            self._first = Image.fromarray(frame)
        if self.written in self._sheet_at:
            self._sheet.append(shrink(Image.fromarray(frame)))
        self.written += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                if self.written != self.num_frames:
                    raise ValueError(f"the clip must have {self.num_frames} frames, got {self.written}")
                self._file.finish()
        finally:
            self._file.close()

    def write_thumbnail(self, path: Path) -> None:
        """Write the first frame, at full size, as WebP; only after the ``with`` block."""
        self._first.save(path, "WEBP", quality=85)

    def write_spritesheet(self, path: Path) -> None:
        """Write up to 16 frames spread evenly over the clip, row by row, four in a row, as WebP.

        Only after the ``with`` block.
        """
        columns = min(SHEET_COLUMNS, len(self._sheet))
        rows = math.ceil(len(self._sheet) / columns)
        width, height = self._sheet[0].size
        sheet = Image.new("RGB", (columns * width, rows * height))
        for i, image in enumerate(self._sheet):
            sheet.paste(image, (i % columns * width, i // columns * height))
        sheet.save(path, "WEBP", quality=85)


def sheet_indices(num_frames: int) -> list[int]:
    """Indices of the frames on the spritesheet: first and last among them, evenly spaced."""
    count = min(SHEET_FRAMES, num_frames)
    return [round(i * (num_frames - 1) / max(count - 1, 1)) for i in range(count)]


def shrink(image: Image.Image) -> Image.Image:
    """Shrink the image until its longest side is at most ``SHEET_SIDE`` pixels; smaller ones stay as they are."""
    scale = SHEET_SIDE / max(image.size)
    if scale >= 1:
        return image
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def encode(frames: Iterable[np.ndarray], writer: VideoWriter, sound: Sound | None = None) -> None:
    """Write a sound, and every frame of an iterator as it comes, and finish the file."""
    with writer:
        if sound is not None:
            writer.add_sound(sound)
        for frame in frames:
            writer.write(frame)
