"""A visible mark: words in the lower left corner of each frame."""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SHARE_OF_HEIGHT = 1 / 22
LEAST_PIXELS = 8
MARGIN = 0.5
"""Margin around the letters, as a share of their height."""
SHADE = 0.55
"""Darkness of the ground behind the letters."""


def marked(frames: Iterator[np.ndarray], words: str) -> Iterator[np.ndarray]:
    """Draw the words into each frame; without words, frames stay as they are.

    Args:
        frames: uint8 RGB, [height, width, 3] each, all of one size.
        words: to be drawn, smaller if they are wider than the frame.
    """
    label: np.ndarray | None = None
    for frame in frames:
        if not words:
            yield frame
            continue
        if label is None:
            label = draw(words, frame.shape[1], frame.shape[0])
        copy = frame.copy()
        height, width = label.shape[:2]
        corner = copy[-height:, :width]
        corner[:] = np.maximum((corner * (1 - SHADE)).astype(np.uint8), label)
        yield copy


def draw(words: str, width: int, height: int) -> np.ndarray:
    """Draw the words in white on black, [rows, columns, 3], no larger than a frame of this size."""
    pixels = max(LEAST_PIXELS, round(height * SHARE_OF_HEIGHT))
    while True:
        font = ImageFont.load_default(pixels)
        left, top, right, bottom = font.getbbox(words)
        margin = round(pixels * MARGIN)
        size = int(right - left) + 2 * margin, int(bottom - top) + 2 * margin
        if size[0] <= width or pixels == 1:
            break
        pixels -= 1
    image = Image.new("RGB", (min(size[0], width), min(size[1], height)))
    ImageDraw.Draw(image).text((margin - left, margin - top), words, font=font, fill="white")
    return np.asarray(image)
