"""Frames become files that players and browsers accept."""

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from adaspa_api.words import OutputFormat
from adaspa_worker.encode import VideoWriter, encode, sheet_indices, shrink
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image


def frame(level: int, width: int = 64, height: int = 48) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def write(path: Path, levels: list[int], fps: int = 8) -> VideoWriter:
    writer = VideoWriter(path, width=64, height=48, fps=fps, num_frames=len(levels))
    encode((frame(level) for level in levels), writer)
    return writer


def test_video_holds_every_frame_in_order_at_the_asked_rate(tmp_path: Path) -> None:
    levels = [10, 60, 110, 160, 210]
    write(tmp_path / "video.mp4", levels, fps=5)
    with av.open(str(tmp_path / "video.mp4")) as container:
        stream = container.streams.video[0]
        decoded = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 5
    assert [d.shape for d in decoded] == [(48, 64, 3)] * 5
    assert np.abs(np.array([d.mean() for d in decoded]) - levels).max() < 4


def test_index_comes_before_the_data_so_that_playing_starts_before_the_download_ends(tmp_path: Path) -> None:
    write(tmp_path / "video.mp4", [0, 128, 255])
    data = (tmp_path / "video.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_the_same_frames_give_the_same_file(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write(tmp_path / name, list(range(0, 250, 10)))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize(("width", "height"), [(63, 48), (64, 47), (0, 48), (16386, 48)])
def test_a_size_that_the_format_cannot_hold_is_refused(tmp_path: Path, width: int, height: int) -> None:
    with pytest.raises(ValueError, match=f"^{width}x{height} is not a size for libx264; .* multiples of 2 up to 16384"):
        VideoWriter(tmp_path / "video.mp4", width=width, height=height, fps=8, num_frames=1)


@pytest.mark.parametrize("output", list(OutputFormat))
def test_each_format_takes_sizes_from_its_step_to_its_longest_side(tmp_path: Path, output: OutputFormat) -> None:
    """By its step: the sides that yuv420p halves are even."""
    step = 2 if output.holds_sound else 1
    longest = {"mp4": 16384, "webm": 65534, "gif": 65535, "webp": 16383}[output]

    def taken(width: int, height: int) -> bool:
        try:
            VideoWriter(tmp_path / "video", output, width=width, height=height, fps=8, num_frames=1)
        except ValueError as error:
            assert str(error).startswith(f"{width}x{height} is not a size for ")
            return False
        return True

    sides = {step: True, longest: True, longest - step: True, longest + step: False, 0: False, -step: False}
    sides[step + 1] = sides[longest - 1] = step == 1
    for side, fits in sides.items():
        assert (taken(side, 64), taken(64, side)) == (fits, fits), side


@given(width=st.integers(1, 2000), height=st.integers(1, 2000))
def test_a_frame_on_the_spritesheet_keeps_its_shape_and_has_no_side_above_320(width: int, height: int) -> None:
    small = shrink(Image.new("L", (width, height))).size
    if max(width, height) <= 320:
        assert small == (width, height)
        return
    assert max(small) == 320 and min(small) >= 1
    scale = 320 / max(width, height)
    assert all(abs(new - old * scale) <= 0.5 or new == 1 for new, old in zip(small, (width, height), strict=True))


@given(st.integers(1, 500))
def test_the_spritesheets_frames_are_spread_evenly_from_the_first_to_the_last(count: int) -> None:
    found = sheet_indices(count)
    assert len(found) == len({*found}) == min(count, 16) and found == sorted(found)
    assert found[0] == 0 and found[-1] == count - 1
    gaps = [b - a for a, b in pairwise(found)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("bad", [frame(0, width=32), frame(0).astype(np.float32)])
def test_a_frame_of_another_shape_or_dtype_is_refused(tmp_path: Path, bad: np.ndarray) -> None:
    writer = VideoWriter(tmp_path / "video.mp4", width=64, height=48, fps=8, num_frames=1)
    with pytest.raises(ValueError, match=r"uint8 of shape \(48, 64, 3\)"):
        encode([bad], writer)


def test_a_clip_of_another_length_than_announced_is_refused(tmp_path: Path) -> None:
    for count in (0, 2, 4):
        writer = VideoWriter(tmp_path / "video.mp4", width=64, height=48, fps=8, num_frames=3)
        with pytest.raises(ValueError, match=f"3 frames.*got {count}"):
            encode([frame(0)] * count, writer)


def test_thumbnail_is_the_first_frame(tmp_path: Path) -> None:
    write(tmp_path / "video.mp4", [200, 20, 20]).write_thumbnail(tmp_path / "thumbnail.webp")
    with Image.open(tmp_path / "thumbnail.webp") as image:
        assert (image.format, image.size) == ("WEBP", (64, 48))
        assert abs(np.asarray(image).mean() - 200) < 4


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (9, 4, 3), (33, 4, 4)])
def test_spritesheet_lays_frames_out_row_by_row(tmp_path: Path, count: int, columns: int, rows: int) -> None:
    levels = [40 + 5 * i for i in range(count)]
    write(tmp_path / "video.mp4", levels).write_spritesheet(tmp_path / "sheet.webp")
    with Image.open(tmp_path / "sheet.webp") as image:
        assert image.size == (columns * 64, rows * 48)
        sheet = np.asarray(image.convert("L"), np.float32)
    cells = [sheet[r * 48 + 24, c * 64 + 32] for r in range(rows) for c in range(columns)]
    expected = [levels[i] for i in sheet_indices(count)]
    assert np.abs(np.array(cells[: len(expected)]) - expected).max() < 5
    assert expected[0] == levels[0] and expected[-1] == levels[-1]
