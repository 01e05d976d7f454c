"""Interface of a file format: frames in, one by one, and maybe sound; a file out that carries a comment."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np

from adaspa_worker.sound import Sound


class Format(ABC):
    """An open file that takes frames.

    Args:
        path: file to write.
        width, height: pixels.
        fps: frames per second.
        comment: ASCII text that the file carries, for ``read_comment``.
    """

    codec: ClassVar[str]
    """FFmpeg's encoder, which PyAV has to bring."""
    step: ClassVar[int] = 1
    """Width and height are multiples of it, in pixels."""
    longest: ClassVar[int]
    """Maximum number of pixels of the width, and of the height."""

    def __init__(self, path: Path, *, width: int, height: int, fps: int, comment: str) -> None:
        self.path, self.width, self.height, self.fps, self.comment = path, width, height, fps, comment

    @abstractmethod
    def write(self, frame: np.ndarray) -> None:
        """Append one frame: uint8 RGB, shape [height, width, 3]."""

    def add_sound(self, sound: Sound) -> None:
        """Take a sound, before the first frame. Raises ValueError where the format holds none."""
        raise ValueError(f"{self.codec} cannot hold sound")

    @abstractmethod
    def finish(self) -> None:
        """Write what the encoder still holds."""

    @abstractmethod
    def close(self) -> None:
        """Close the file; it is whole only after ``finish``."""

    @staticmethod
    @abstractmethod
    def read_comment(path: Path) -> str:
        """Return the comment of a file of this format; "" if it has none."""

    @classmethod
    def check_size(cls, width: int, height: int) -> None:
        """Raise ValueError for a size that the format cannot hold."""
        if any(side < cls.step or side % cls.step or side > cls.longest for side in (width, height)):
            allowed = f"multiples of {cls.step} up to {cls.longest}"
            raise ValueError(f"{width}x{height} is not a size for {cls.codec}; width and height must be {allowed}")
