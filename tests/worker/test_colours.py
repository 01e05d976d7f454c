"""What a video shows is what was generated: in a real browser, in every decoder, and in the pictures beside it."""

import base64
from pathlib import Path

import av
import numpy as np
import pytest
from adaspa_api.words import OutputFormat
from adaspa_worker.encode import VideoWriter, encode
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from browser import chromium
from clips import frames_of
from PIL import Image

COLOURS = [(0, 255, 0), (255, 0, 0), (0, 0, 255), (200, 100, 50), (20, 90, 160), (128, 128, 128), (255, 255, 255)]
SIZES = [(854, 480), (1280, 720), (1920, 1080)]
VIDEOS = [output for output in OutputFormat if output.content_type.startswith("video/")]
BROWSER_TOLERANCE = 13
"""Chromium without a GPU multiplies BT.709's blue by 2 and not by 2.11. A wrong matrix is off by 39."""
SHOWN = """async ([source, count]) => {
  const shown = document.createElement(source.startsWith("data:image") ? "img" : "video");
  if (shown.decode) {
    shown.src = source;
    await shown.decode();
  } else {
    const seen = new Promise((done, failed) => {
      shown.requestVideoFrameCallback(done);
      shown.onerror = () => failed(shown.error);
    });
    [shown.muted, shown.loop, shown.src] = [true, true, source];
    document.body.append(shown);
    await shown.play();
    await seen;
  }
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [shown.videoWidth ?? shown.width, shown.videoHeight ?? shown.height];
  const context = canvas.getContext("2d");
  context.drawImage(shown, 0, 0);
  const at = (i) => [...context.getImageData(((i + 0.5) * canvas.width) / count, canvas.height / 2, 1, 1).data];
  shown.remove();
  return Array.from({ length: count }, (_, i) => at(i).slice(0, 3));
}"""


def stripes(width: int, height: int) -> np.ndarray:
    """The colours side by side."""
    return np.repeat(np.array(COLOURS, np.uint8)[None, np.arange(width) * len(COLOURS) // width], height, axis=0)


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


def test_a_browser_shows_the_colours_at_every_number_of_lines(tmp_path: Path) -> None:
    with chromium() as browser:
        page = browser.new_page()
        for output in OutputFormat:
            for width, height in SIZES:
                path, _ = write(tmp_path, output, width, height)
                source = f"data:{output.content_type};base64,{base64.b64encode(path.read_bytes()).decode()}"
                shown = page.evaluate(SHOWN, [source, len(COLOURS)])
                assert np.abs(np.array(shown) - COLOURS).max() <= BROWSER_TOLERANCE, (output, height, shown)


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
