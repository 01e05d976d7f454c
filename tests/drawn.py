"""Images as clients send them."""

import struct
import zlib
from io import BytesIO
from typing import Any

from PIL import Image, ImageColor, ImageDraw

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


def close(found: object, colour: str) -> bool:
    assert isinstance(found, tuple)
    return all(abs(a - b) < 24 for a, b in zip(found, ImageColor.getrgb(colour), strict=True))


def assert_corners(image: Image.Image) -> None:
    """Each colour is in its quarter."""
    for colour, (right, below) in CORNERS.items():
        at = (image.width * (1 + 2 * right) // 4, image.height * (1 + 2 * below) // 4)
        assert close(image.getpixel(at), colour), (colour, image.getpixel(at))


def claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is so large, with one line of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


MOVING = {"save_all": True, "append_images": [Image.new("RGB", (96, 64), "black")]}
"""Options of a file that moves."""
