"""Previews of a running job: a small moving WebP now and then, for a bounded share of its time."""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

SHARE = 0.02
"""Share of the denoising time that previews may take."""
EVERY_SECONDS = 1.0
"""Between two previews, at least."""
UNMEASURED_SECONDS = 0.02
"""Seconds that the first preview of a job is taken to cost."""
MAX_SIDE, MAX_FRAMES, MAX_BYTES = 192, 8, 48 * 1024
"""Limits of a preview: longest side in pixels, frames, size."""
TRIES = ((MAX_FRAMES, 60), (MAX_FRAMES, 20), (1, 20))
"""Frames and WebP quality, from the best on; the last one always fits."""


@dataclass
class Previews:
    """Schedule of a job's previews, and what they cost it.

    Args:
        make: returns current frames of the clip, uint8 RGB [frames, height, width, 3], or None.
        seconds: length of the clip.
        clock: seconds that go on.
    """

    make: Callable[[], np.ndarray | None]
    seconds: float
    clock: Callable[[], float] = time.monotonic
    spent: float = 0.0
    _cost: float = UNMEASURED_SECONDS
    _last: float = field(init=False)

    def __post_init__(self) -> None:
        self._begin = self._last = self.clock()

    def due(self) -> bool:
        """Tell whether there is time for one."""
        now = self.clock()
        return now - self._last >= EVERY_SECONDS and self.spent + self._cost <= SHARE * (now - self._begin)

    def take(self) -> bytes | None:
        """Return a WebP of the clip's current state, or None if there is none."""
        start = self.clock()
        frames = self.make()
        image = None if frames is None else to_webp(frames, self.seconds)
        self._last = self.clock()
        self._cost = self._last - start
        self.spent += self._cost
        return image


def to_webp(frames: np.ndarray, seconds: float) -> bytes:
    """A moving WebP of at most ``MAX_BYTES``.

    Args:
        frames: uint8 RGB [frames, height, width, 3].
        seconds: how long it plays before it begins again.
    """
    for most, quality in TRIES:
        count = min(most, len(frames))
        pictures = [
            shrink(Image.fromarray(frames[i])) for i in np.linspace(0, len(frames) - 1, count).round().astype(int)
        ]
        buffer = io.BytesIO()
        first, *others = pictures
        moving = {"save_all": True, "append_images": others, "duration": round(1000 * seconds / count), "loop": 0}
        first.save(buffer, "WEBP", quality=quality, method=0, **(moving if others else {}))
        if buffer.tell() <= MAX_BYTES:
            break
    return buffer.getvalue()


def shrink(image: Image.Image) -> Image.Image:
    """Shrink the image until its longest side is at most ``MAX_SIDE``."""
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    return image
