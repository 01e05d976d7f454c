"""Clips that show nothing: what a model that was loaded wrong, or ran with wrong settings, often comes to."""

import numpy as np

FLAT = 4
"""Most that the values of each channel of a frame of one colour differ by, of 255."""
SATURATED = 0.99
"""Share of a saturated frame's values that are 0 or 255."""
EVERY = 4
"""A frame is judged by every pixel so far apart: it takes a millisecond at 720p."""


class BlankClip(Exception):
    """Most of the clip's frames show nothing, and the operator has such clips fail (``ADASPA_FAIL_BLANK``)."""


class Look:
    """Looks at the frames of a clip as they come."""

    def __init__(self) -> None:
        self._frames = self._flat = self._saturated = 0

    def at(self, frame: np.ndarray) -> None:
        """Look at a frame, uint8 RGB [height, width, 3]."""
        some = frame[::EVERY, ::EVERY].reshape(-1, 3)
        self._frames += 1
        if int(np.ptp(some, axis=0).max()) <= FLAT:
            self._flat += 1
        elif ((some == 0) | (some == 255)).mean() >= SATURATED:
            self._saturated += 1

    def warnings(self) -> list[str]:
        """Describe what is wrong with more than half of the frames, one sentence each; usually empty."""
        told = {"are a single colour": self._flat, "are only black and white": self._saturated}
        return [f"{n} of {self._frames} frames {what}" for what, n in told.items() if 2 * n > self._frames]
