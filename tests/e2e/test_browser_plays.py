"""What a real browser shows and plays of a video's file."""

import base64
import io
from pathlib import Path

import numpy as np
from adaspa_api.words import OutputFormat
from adaspa_worker.encode import VideoWriter, encode
from browser import chromium
from clips import COLOURS, stripes, tones
from PIL import Image
from waiting import PATIENCE, until

SIZES = [(854, 480), (1280, 720), (1920, 1080)]
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
HEARD = """async source => {
    const file = await (await fetch(source)).arrayBuffer();
    const sound = await new OfflineAudioContext(2, 1, 48000).decodeAudioData(file);
    const squares = sound.getChannelData(0).map(sample => sample ** 2);
    return [sound.length, squares.reduce((sum, square) => sum + square) / sound.length];
}"""
"""Samples at 48 kHz, and the mean of their squares, of a file that a browser decodes."""


def data_url(path: Path, output: OutputFormat) -> str:
    return f"data:{output.content_type};base64,{base64.b64encode(path.read_bytes()).decode()}"


def test_a_browser_shows_the_colours_at_every_number_of_lines(tmp_path: Path) -> None:
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        for output in OutputFormat:
            for width, height in SIZES:
                path = tmp_path / f"{height}.{output}"
                encode(
                    [stripes(width, height)] * 2,
                    VideoWriter(path, output, width=width, height=height, fps=8, num_frames=2),
                )
                source = data_url(path, output)
                shown = page.evaluate(SHOWN, [source, len(COLOURS)])
                assert np.abs(np.array(shown) - COLOURS).max() <= BROWSER_TOLERANCE, (output, height, shown)


def test_a_browser_plays_every_format(tmp_path: Path) -> None:
    levels = [20, 120, 220]
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        for output in OutputFormat:
            path = tmp_path / f"video.{output}"
            writer = VideoWriter(path, output, width=64, height=48, fps=4, num_frames=len(levels))
            sound = tones(1, 48_000) if output.holds_sound else None
            encode((np.full((48, 64, 3), level, np.uint8) for level in levels), writer, sound)
            source = data_url(path, output)
            image = output.content_type.startswith("image/")
            page.set_content(
                f"<img src='{source}'>" if image else f"<video src='{source}' muted autoplay loop></video>"
            )
            box = page.locator("img, video").bounding_box()
            seen: set[int] = set()

            def look() -> bool:
                shown = np.asarray(Image.open(io.BytesIO(page.screenshot(clip=box))).convert("L")).mean()  # noqa: B023
                seen.update(level for level in levels if abs(level - shown) < 6)  # noqa: B023
                return len(seen) == len(levels)  # noqa: B023

            until(look, f"every frame of {output} is seen")
            if sound is not None:
                samples, loudness = page.evaluate(HEARD, source)
                assert abs(samples - 48_000 * len(levels) / 4) < 48, "it has WebM's times in milliseconds"
                assert abs(loudness - 0.125) < 0.01
