"""Which of a video's frames are taken, and their colours and shape."""

from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import numpy as np
import pytest
from adaspa_service.inputs.read_clip import Seen, last_times, nearest, upright
from adaspa_service.inputs.source import InputRefused
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

TIMES = st.lists(st.integers(0, 4000), min_size=1, max_size=40, unique=True)


@given(TIMES, st.fractions(-100, 4100))
@example([0, 10], Fraction(5))
@example([0, 10], Fraction(10))
def test_the_nearest_time_is_no_further_than_any_other(times: list[int], wanted: Fraction) -> None:
    found = nearest(sorted(times), wanted)
    assert found in times and abs(found - wanted) == min(abs(time - wanted) for time in times)


@given(TIMES, st.integers(2, 9), st.sampled_from([7, 8, 24, 25, 30]))
@example([125 * n for n in range(9)], 9, 8)
@example([125 * n for n in range(8)], 9, 8)
@example([125 * n for n in range(9) if n != 4], 9, 8)
@example([63, *(125 * n for n in range(1, 9))], 9, 8)
@example([62, *(125 * n for n in range(1, 9))], 9, 8)
def test_the_last_frames_are_those_next_to_evenly_spaced_moments(times: list[int], frames: int, fps: int) -> None:
    """Or it is said why there are none: the video is too short for them, or has fewer frames a second."""
    unit, step = Fraction(1, 1000), Fraction(1000, fps)
    moments = [max(times) - number * step for number in reversed(range(frames))]
    too_short = moments[0] < min(times) - step / 2
    try:
        found = last_times([Seen(time, alone=True) for time in times], unit, frames, fps)
    except InputRefused as error:
        if too_short:
            assert f"at {fps} FPS; allowed: {frames} or more" in str(error)
            return
        assert f"has fewer than {fps} frames per second" in str(error)
        assert any(nearest(sorted(times), one) == nearest(sorted(times), other) for one, other in pairwise(moments))
        return
    assert not too_short and len(found) == frames and found == sorted(found)
    assert [abs(time - moment) for time, moment in zip(found, moments, strict=True)] == [
        min(abs(time - moment) for time in times) for moment in moments
    ]


def of_colour(width: int, height: int, y: int, u: int, v: int) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane, value in zip(frame.planes, (y, u, v), strict=True):
        plane.update(np.full(plane.buffer_size, value, np.uint8).tobytes())
    return frame


RED = {"ITU601": (82, 90, 240), "ITU709": (63, 102, 240)}
"""Red in Y, U and V of limited range: ITU-R BT.601 and BT.709."""


def is_red(image: Image.Image) -> bool:
    """Whether it is the red of its own standard; the other one's is off by 22."""
    found: Any = image.getpixel((32, 8))
    return all(abs(value - wanted) < 8 for value, wanted in zip(found, (255, 0, 0), strict=True))


@pytest.mark.parametrize(
    ("lines", "standard"), [(240, "ITU601"), (480, "ITU601"), (718, "ITU601"), (720, "ITU709"), (1080, "ITU709")]
)
def test_colours_that_a_file_does_not_name_are_those_of_its_size(lines: int, standard: str) -> None:
    image = upright(of_colour(64, lines, *RED[standard]), None)
    assert image.size == (64, lines) and is_red(image)


@pytest.mark.parametrize("standard", RED)
def test_colours_that_a_file_names_are_those(standard: str) -> None:
    for lines in (240, 1080):
        frame = of_colour(64, lines, *RED[standard])
        frame.colorspace = av.video.reformatter.Colorspace[standard]
        assert is_red(upright(frame, None)), lines


@pytest.mark.parametrize(
    ("aspect", "size"),
    [(None, (64, 48)), (Fraction(1), (64, 48)), (Fraction(4, 3), (85, 48)), (Fraction(1, 2), (32, 48))],
)
def test_pixels_are_made_square(aspect: Fraction | None, size: tuple[int, int]) -> None:
    assert upright(of_colour(64, 48, *RED["ITU601"]), aspect).size == size
