"""What becomes of images that clients send: formats, orientation, shape, colours; and what is refused, the large ones
before a pixel of them is decoded."""

from io import BytesIO
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from adaspa_service.gateway.images import fitting_size
from adaspa_service.inputs.images import detailed, fitted, opened, upright_size
from adaspa_service.inputs.jpeg import check_cost
from adaspa_service.inputs.source import InputRefused
from drawn import MOVING, assert_corners, claims, close, corners, encoded, picture
from PIL import ExifTags, Image, ImageCms

PIXELS = 1_000_000


def prepared(content: bytes, size: tuple[int, int], *, contain: bool = False) -> Image.Image:
    return fitted(opened(BytesIO(content), PIXELS), size, "black" if contain else None)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_of_each_format_is_turned_as_its_tag_says(kind: str, orientation: int) -> None:
    upright = corners(96, 64)
    stored = upright
    for method in {  # what undoes the turn that the tag asks for
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }.get(orientation, []):
        stored = stored.transpose(method)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Artist] = "somebody"
    content = encoded(stored, kind, exif=exif)
    assert upright_size(opened(BytesIO(content), PIXELS)) == (96, 64)
    for size in ((48, 32), (192, 128), (64, 64)):
        image = prepared(content, size)
        assert (image.size, image.mode) == (size, "RGB")
        assert_corners(image)
        assert b"somebody" not in encoded(image) and image.info == {}


def test_it_covers_the_size_and_is_cut_at_its_centre_or_is_contained_in_it() -> None:
    wide = picture(200, 100)
    covered = prepared(wide, (64, 64))
    assert_corners(covered)
    contained = prepared(wide, (64, 64), contain=True)
    assert [close(contained.getpixel(at), "black") for at in ((32, 8), (32, 56))] == [True, True]
    assert_corners(contained.crop((0, 16, 64, 48)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_images_of_every_kind_of_pixel_become_rgb(mode: str) -> None:
    grey = Image.new("L", (64, 64), 128).convert("RGB")
    if mode == "I;16":
        image = Image.new("I;16", (64, 64), 128 * 256)
    elif mode == "1":
        image = Image.new("1", (64, 64), 1)
    else:
        image = grey.convert(mode)
    content = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    found = prepared(content, (32, 32)).getpixel((16, 16))
    assert close(found, "white" if mode == "1" else "rgb(128,128,128)"), found


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
def test_what_is_transparent_is_white(mode: str) -> None:
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0)).convert(mode)
    options = {"transparency": 0} if mode == "P" else {}
    if mode == "P":
        image = Image.new("P", (64, 64), 0)
    assert close(prepared(encoded(image, **options), (32, 32)).getpixel((16, 16)), "white")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_are_those_of_the_images_own_profile(mode: str) -> None:
    """A profile with the primaries swapped would show red as something else, were it passed over."""
    image = corners(96, 64).convert(mode)
    options = {"transparency": 255} if mode == "P" else {}
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red, green = lab.index(b"rXYZ", 132), lab.index(b"gXYZ", 132)
    swapped = bytearray(lab)
    swapped[red : red + 4], swapped[green : green + 4] = b"gXYZ", b"rXYZ"
    found = prepared(encoded(image, icc_profile=bytes(swapped), **options), (32, 32)).getpixel((8, 8))
    assert not close(found, "red"), found
    for profile in (lab, b"no profile"):
        assert_corners(prepared(encoded(image, icc_profile=profile, **options), (32, 32)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_an_image_with_broken_tags_is_taken_as_it_lies(kind: str) -> None:
    for tags in (b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0"):
        try:
            content = picture(kind=kind, exif=tags)
        except ValueError:  # this kind's own writer refuses them
            continue
        assert_corners(prepared(content, (48, 32)))


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_is_none_is_no_turn(value: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    content = picture(96, 64, "JPEG", exif=exif)
    assert upright_size(opened(BytesIO(content), PIXELS)) == (96, 64)
    assert_corners(prepared(content, (48, 32)))


def test_a_phones_jpeg_with_a_second_picture_is_its_first() -> None:
    second = Image.new("RGB", (96, 64), "black")
    assert_corners(prepared(picture(kind="MPO", save_all=True, append_images=[second]), (48, 32)))


def test_a_progressive_jpeg_is_taken() -> None:
    assert_corners(prepared(PROGRESSIVE, (48, 32)))


def test_what_looks_like_scans_within_a_jpegs_tags_counts_for_nothing() -> None:
    """As a thumbnail has them."""
    for inside in (b"\xff\xda" * 100, b"\xff\xe0" * 2000, b"\xff\xd9" * 100):
        content = picture(kind="JPEG", comment=inside)
        assert inside in content
        assert_corners(prepared(content, (48, 32)))


@pytest.mark.parametrize(
    ("scans", "segments", "refused"), [(64, 0, False), (65, 0, True), (1, 999, False), (1, 1000, True)]
)
def test_a_jpeg_has_up_to_so_many_scans_and_segments(scans: int, segments: int, refused: bool) -> None:
    head, end = b"\xff\xd8" + b"\xff\xef\0\2" * segments, b"\xff\xd9"
    scan = b"\xff\xda\0\2data\xff\x00\xff\xd0more\xff\xff"  # restarts and filling are no segments
    content = BytesIO(head + scan * scans + end + b"\xff\xda\0\2" * 2000)
    if refused:
        with pytest.raises(InputRefused, match="allowed: up to 64 scans and 1000 segments"):
            check_cost(content)
    else:
        check_cost(content)


@pytest.mark.parametrize(
    ("size", "kept"),
    [
        ((100, 60), (100, 60)),
        ((2048, 2048), (2048, 2048)),
        ((2048, 8192), (2048, 8192)),
        ((4096, 8192), (2048, 4096)),
        ((3000, 2500), (2458, 2048)),
        ((400, 100), (400, 100)),
        ((100, 400), (100, 400)),
        ((401, 100), None),
        ((100, 401), None),
    ],
)
def test_a_reference_keeps_its_shape_and_its_detail(size: tuple[int, int], kept: tuple[int, int] | None) -> None:
    if kept:
        assert detailed(*size) == kept
    else:
        with pytest.raises(InputRefused, match=f"is {size[0]}x{size[1]}; allowed: a shape between 1:4 and 4:1"):
            detailed(*size)


@pytest.mark.parametrize("size", [(64, 64), (64, 30), (30, 64), (63, 64)])
@pytest.mark.parametrize("shape", [(200, 100), (100, 200), (100, 100), (99, 100)])
def test_bars_are_as_wide_on_both_sides(shape: tuple[int, int], size: tuple[int, int]) -> None:
    white = encoded(Image.new("RGB", shape, "white"))
    image = prepared(white, size, contain=True)
    left, top, right, bottom = image.convert("L").point(lambda level: 255 * (level > 128)).getbbox() or (0,) * 4
    assert 0 <= size[0] - right - left <= 1 and 0 <= size[1] - bottom - top <= 1
    assert (right - left == size[0]) or (bottom - top == size[1])
    assert abs((right - left) / (bottom - top) - shape[0] / shape[1]) < 0.1 * shape[0] / shape[1]
    assert prepared(white, size).convert("L").getextrema() == (255, 255), "covered, it has none"


@pytest.mark.parametrize("pixels", [96 * 64, 96 * 64 - 1])
def test_an_image_has_up_to_so_many_pixels(pixels: int) -> None:
    if pixels == 96 * 64:
        opened(BytesIO(picture()), pixels)
        return
    with pytest.raises(InputRefused, match="is 96x64, 6144 pixels; allowed: up to 6143") as caught:
        opened(BytesIO(picture()), pixels)
    assert caught.value.too_large


PROGRESSIVE = picture(kind="JPEG", progressive=True)
LAST_SCAN = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]
REFUSED = {
    "a jpeg of many scans": (PROGRESSIVE[:-2] + LAST_SCAN * 60 + PROGRESSIVE[-2:], "up to 64 scans"),
    "a jpeg of many tags": (PROGRESSIVE[:2] + b"\xff\xef\0\2" * 1000 + PROGRESSIVE[2:], "1000 segments"),
    "no image": (b"a red circle", "is not an image"),
    "nothing": (b"", "is not an image"),
    "a page": (b"<!doctype html><html></html>", "is not an image"),
    "a drawing": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image"),
    "a video": (b"\0\0\0 ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(100), "is not an image"),
    "another format": (picture(kind="BMP"), "is not an image"),
    "a gif": (picture(kind="GIF"), "is not an image"),
    "a moving png": (picture(**MOVING), r"is animated \(2 frames\)"),
    "a moving webp": (picture(kind="WEBP", **MOVING), r"is animated \(2 frames\)"),
    "a moving avif": (picture(kind="AVIF", **MOVING), r"is animated \(2 frames\)"),
    "100 megapixels": (claims(10_000, 10_000), "is 10000x10000, 100000000 pixels; allowed: up to 1000000"),
    "more than Pillow opens": (claims(60_000, 60_000), "too many pixels; allowed: up to 1000000"),
    "a line of 1000": (claims(900, 900), "damaged or incomplete"),
    **{
        f"a {kind} cut off": (picture(kind=kind)[:-40], "damaged|not an image")
        for kind in ("JPEG", "PNG", "WEBP", "AVIF")
    },
    **{
        f"a {kind}'s head": (picture(kind=kind)[:60], "damaged|not an image")
        for kind in ("JPEG", "PNG", "WEBP", "AVIF")
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_still_image_of_an_allowed_size_is_refused(name: str) -> None:
    content, why = REFUSED[name]
    with pytest.raises(InputRefused, match=why) as caught:
        prepared(content, (32, 32))
    assert caught.value.too_large == ("pixels" in why) and caught.value.status == 400


@pytest.mark.parametrize("seed", range(12))
def test_a_png_with_a_wrong_bit_is_refused(seed: int) -> None:
    """Its pixels have a checksum; without one, many such bits only change colours."""
    drawn = Random(seed)
    noise = Image.frombytes("RGB", (48, 48), drawn.randbytes(48 * 48 * 3))
    noise.save(found := BytesIO(), "PNG")
    whole = bytearray(found.getvalue())
    assert prepared(bytes(whole), (16, 16)).size == (16, 16)
    begin = whole.index(b"IDAT") + 6
    whole[drawn.randrange(begin, whole.index(b"IEND") - 12)] ^= 1 << drawn.randrange(8)
    with pytest.raises(InputRefused, match="is damaged or incomplete; allowed"):
        prepared(bytes(whole), (16, 16))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_broken_bytes_are_refused_or_shown_but_never_an_error_of_ours(kind: str) -> None:
    whole = picture(kind=kind)
    for at in range(0, len(whole), max(1, len(whole) // 150)):
        for broken in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            try:
                assert prepared(broken, (16, 16)).size == (16, 16)
            except InputRefused:
                continue


@pytest.mark.parametrize(
    ("sizes", "width", "height", "wanted"),
    [
        (["64x64", "128x128"], 1000, 1030, (64, 64)),  # of one shape, the one that the catalog has first
        (["128x128", "64x64"], 10, 10, (128, 128)),
        (["832x480", "1280x720"], 1920, 1080, (832, 480)),
        (["480x832", "832x480"], 1920, 1080, (832, 480)),
        (["64x64", "72x64"], 72, 64, (72, 64)),
        (["64x64", "128x64", "64x128"], 100, 10, (128, 64)),
        (["64x64", "128x64", "64x128"], 10, 100, (64, 128)),
        (["64x64", "128x64", "64x128"], 90, 64, (64, 64)),
        (["64x64", "128x64", "64x128"], 100, 64, (128, 64)),
        (["100x10"], 10, 100, (100, 10)),
    ],
)
def test_a_video_has_the_first_size_of_about_its_images_shape(
    sizes: list[str], width: int, height: int, wanted: tuple[int, int]
) -> None:
    spec: Any = SimpleNamespace(sizes=sizes)
    for scale in (1, 7):
        assert fitting_size(spec, width * scale, height * scale) == wanted
