"""A still image from a client: checked, turned upright, and fitted to a video's size."""

import struct
import warnings
from io import BytesIO
from typing import IO

from adaspa_api.words import Kind
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from adaspa_service.inputs.jpeg import check_cost
from adaspa_service.inputs.source import InputRefused

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF")
DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, LookupError, TypeError),
    *(RuntimeError, ArithmeticError, AttributeError),
)
"""Errors that Pillow raises for files that are cut off or broken."""
DETAIL = 2048
"""Pixels of a reference's shorter side at most: MiniMax-H3, which looks closest, sees no more."""
MOST_SLIM = 4
"""Longer side of a reference by its shorter one, at most: MiniMax-H3 takes no other."""
SIDEWAYS = range(5, 9)
"""Orientations (Exif) of an image that lies on its side."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition that makes each orientation upright."""

# It warns of half as many pixels as it refuses; the limit here is the service's own.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

BROKEN = "is damaged or incomplete; allowed: a complete image"


def opened(file: IO[bytes], max_pixels: int) -> Image.Image:
    """An image by its first bytes, and the checksums of a PNG: nothing of it is decoded.

    Raises:
        InputRefused: it is none of the formats, moves, has too many pixels, is a JPEG of very many scans, or a PNG with
            a wrong checksum or without its end.
    """
    check_cost(file)
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise InputRefused(f"has too many pixels; allowed: up to {max_pixels}", too_large=True) from error
    except UnidentifiedImageError as error:
        raise InputRefused(f"is not an image, or is damaged; allowed: {Kind.image.taken}") from error
    except DAMAGE as error:
        raise InputRefused(f"is a damaged image; allowed: {Kind.image.taken}") from error
    width, height = image.size
    if width * height > max_pixels:
        why = f"is {width}x{height}, {width * height} pixels; allowed: up to {max_pixels}"
        raise InputRefused(why, too_large=True)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a phone's JPEG with a second picture for depth or brightness
        raise InputRefused(f"is animated ({frames} frames); allowed: a still image")
    if image.format != "PNG":
        return image
    try:
        image.verify()  # decoding it asks for no checksum of its pixels
    except DAMAGE as error:
        raise InputRefused(BROKEN) from error
    return Image.open(file, formats=FORMATS)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height once it is turned as its orientation tag says."""
    return image.size[::-1] if orientation(image) in SIDEWAYS else image.size


def detailed(width: int, height: int) -> tuple[int, int]:
    """Return the size in which a reference of these sides is kept: its own, or a smaller one of the same shape.

    Raises:
        InputRefused: it is a strip.
    """
    if max(width, height) > MOST_SLIM * min(width, height):
        raise InputRefused(f"is {width}x{height}; allowed: a shape between 1:{MOST_SLIM} and {MOST_SLIM}:1")
    scale = min(1, DETAIL / min(width, height))
    return round(width * scale), round(height * scale)


def orientation(image: Image.Image) -> int:
    """Read the orientation tag; 1, which is upright, without one."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except DAMAGE:  # the tags are broken, the image need not be
        return 1


def fitted(image: Image.Image, size: tuple[int, int], bars: str | None) -> Image.Image:
    """Turn the image upright, in RGB and of exactly this size; what is transparent becomes white.

    It covers the size, and what is too much at two sides is cut off evenly; or it is contained in it, with bars at two
    sides. It is scaled before it is turned, so that little is held of a large one.

    Args:
        image: as ``opened`` gives it.
        size: width and height of the result.
        bars: their colour; None covers the size.

    Raises:
        InputRefused: it is broken, or cut off.
    """
    turned = orientation(image)
    target = size[::-1] if turned in SIDEWAYS else size
    try:
        image.draft("RGB", target)  # a JPEG that is much larger is decoded at half of it, a quarter, an eighth
        image.load()
        scale = ImageOps.fit if bars is None else ImageOps.contain
        flat = _flat(scale(_plain(image), target, Image.Resampling.LANCZOS))
        scaled = _in_srgb(flat, image.info.get("icc_profile"))
    except DAMAGE as error:
        raise InputRefused(BROKEN) from error
    if bars is not None:
        canvas = Image.new("RGB", target, bars)
        canvas.paste(scaled, ((target[0] - scaled.width) // 2, (target[1] - scaled.height) // 2))
        scaled = canvas
    upright = scaled.transpose(TURNS[turned]) if turned in TURNS else scaled
    upright.info.clear()  # where it was taken, and by whom, is nobody's business
    return upright


def _plain(image: Image.Image) -> Image.Image:
    """Convert to a mode that can be scaled; palettes, 16-bit and CMYK images cannot."""
    if image.mode.startswith("I"):
        return image.convert("I").point(lambda level: level / 256).convert("L")
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert to sRGB if the colour profile is usable."""
    if profile is None:
        return image
    try:
        own = ImageCms.ImageCmsProfile(BytesIO(profile))
        return ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB")) or image
    except (OSError, ImageCms.PyCMSError):
        return image


def _flat(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image.convert("RGB")
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image)
    return paper.convert("RGB")
