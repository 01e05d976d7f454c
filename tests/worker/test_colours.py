"""What a video shows is what was generated: in every decoder, and in the pictures beside it."""

from pathlib import Path

import av
import numpy as np
import pytest
from adaspa_api.words import OutputFormat
from adaspa_worker.encode import VideoWriter, encode
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from clips import COLOURS, frames_of, stripes
from PIL import Image

SIZES = [(854, 480), (1280, 720), (1920, 1080)]
VIDEOS = [output for output in OutputFormat if output.content_type.startswith("video/")]


def middles(picture: np.ndarray) -> np.ndarray:
    """The colour in the middle of each stripe."""
    height, width = picture.shape[:2]
    at = [round((i + 0.5) * width / len(COLOURS)) for i in range(len(COLOURS))]
    return picture[height // 2, at].astype(int)


def write(folder: Path, output: OutputFormat, width: int, height: int) -> tuple[Path, VideoWriter]:
    path = folder / f"{height}.{output}"
    writer = VideoWriter(path, output, width=width, height=height, fps=8, num_frames=2)
    encode([stripes(width, height)] * 2, writer)
    return path, writer


@pytest.mark.parametrize("output", VIDEOS)
def test_a_video_says_how_its_colours_are_meant(tmp_path: Path, output: OutputFormat) -> None:
    path, _ = write(tmp_path, output, *SIZES[0])
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
        for told in (stream.codec_context, frame):
            assert (told.colorspace, told.color_range) == (Colorspace.ITU709, ColorRange.MPEG)
            assert (told.color_primaries, told.color_trc) == (ColorPrimaries.BT709, ColorTrc.BT709)
        assert np.abs(middles(frame.to_ndarray(format="rgb24")) - COLOURS).max() <= 3


@pytest.mark.parametrize("output", OutputFormat)
def test_the_pictures_beside_a_video_have_its_colours(tmp_path: Path, output: OutputFormat) -> None:
    path, writer = write(tmp_path, output, 640, 480)
    writer.write_thumbnail(tmp_path / "thumbnail.webp")
    writer.write_spritesheet(tmp_path / "sheet.webp")
    video = middles(frames_of(path)[0])
    thumbnail = np.asarray(Image.open(tmp_path / "thumbnail.webp").convert("RGB"))
    sheet = np.asarray(Image.open(tmp_path / "sheet.webp").convert("RGB"))
    for picture in (thumbnail, sheet[:, : sheet.shape[1] // 2]):
        assert np.abs(middles(picture) - video).max() <= 6
