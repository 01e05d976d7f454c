"""Images as clients send them."""

from io import BytesIO
from typing import Any

from PIL import Image, ImageDraw

CORNERS = {"red": (0, 0), "lime": (1, 0), "blue": (0, 1), "yellow": (1, 1)}


def corners(width: int, height: int) -> Image.Image:
    """A quarter of each colour: what is where tells how it was turned and cut."""
    image = Image.new("RGB", (width, height))
    for colour, (right, below) in CORNERS.items():
        box = (right * width // 2, below * height // 2, (right + 1) * width // 2 - 1, (below + 1) * height // 2 - 1)
        ImageDraw.Draw(image).rectangle(box, colour)
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """An image's file."""
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(width: int = 96, height: int = 64, kind: str = "PNG", **options: Any) -> bytes:
    """The file of ``corners``."""
    return encoded(corners(width, height), kind, **options)
