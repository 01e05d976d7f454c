"""Each format's file: what it holds, at what rate, and the recipe that can be read back from it."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from adaspa_api.words import OutputFormat
from adaspa_jobs.job import JobParams
from adaspa_worker.encode import VideoWriter, encode
from adaspa_worker.recipe import NoRecipe, read_recipe, write_recipe
from PIL import Image

LEVELS = [10, 60, 110, 160, 210, 240, 30]


def write(path: Path, output: OutputFormat, fps: int = 5, comment: str = "") -> Path:
    writer = VideoWriter(path, output, width=64, height=48, fps=fps, num_frames=len(LEVELS), comment=comment)
    encode((np.full((48, 64, 3), level, np.uint8) for level in LEVELS), writer)
    return path


@pytest.mark.parametrize(("output", "codec"), [("mp4", "h264"), ("webm", "vp9"), ("gif", "gif")])
def test_every_frame_is_there_in_order_at_the_asked_rate(tmp_path: Path, output: str, codec: str) -> None:
    path = write(tmp_path / f"video.{output}", OutputFormat(output))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert (stream.codec_context.name.removeprefix("lib"), stream.average_rate) == (codec, 5)
    assert [frame.shape for frame in decoded] == [(48, 64, 3)] * len(LEVELS)
    assert np.abs(np.array([frame.mean() for frame in decoded]) - LEVELS).max() < 4


def test_a_gif_repeats_for_ever_and_keeps_a_rate_that_is_no_whole_hundredth(tmp_path: Path) -> None:
    path = write(tmp_path / "video.gif", OutputFormat.gif, fps=30)
    with Image.open(path) as image:
        assert (image.n_frames, image.info["loop"]) == (len(LEVELS), 0)  # type: ignore[attr-defined]
        durations = []
        for index in range(len(LEVELS)):
            image.seek(index)
            durations.append(image.info["duration"])
    assert set(durations) == {30, 40} and abs(sum(durations) - 1000 * len(LEVELS) / 30) <= 10


def test_a_gif_keeps_the_colours_of_a_frame_with_many(tmp_path: Path) -> None:
    y, x = np.mgrid[0:48, 0:64]
    frame = np.stack([x * 4, y * 5, 255 - x * 4], -1).astype(np.uint8)
    writer = VideoWriter(tmp_path / "video.gif", OutputFormat.gif, width=64, height=48, fps=8, num_frames=2)
    encode([frame, frame[::-1].copy()], writer)
    with Image.open(tmp_path / "video.gif") as image:
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - frame).mean() < 5


@pytest.mark.parametrize("output", list(OutputFormat))
def test_the_same_frames_give_the_same_file(tmp_path: Path, output: OutputFormat) -> None:
    first, second = (write(tmp_path / f"{name}.{output}", output) for name in "ab")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("output", list(OutputFormat))
def test_the_recipe_is_read_back_from_the_file(
    tmp_path: Path, params: Callable[..., JobParams], output: OutputFormat
) -> None:
    prompt = 'a "red" circle; für 赤い円 🔴\n\x00 = \\ ' + "x" * 600
    asked = params(prompt=prompt, negative_prompt="grey", seed=2**63 - 1, output_format=output)
    attention = {"sparsity": 0.8, "searches": [10, 30]}
    found = read_recipe(write(tmp_path / f"video.{output}", output, comment=write_recipe(asked, attention)))
    assert {name: found[name] for name in ("prompt", "negative_prompt", "seed")} == {
        "prompt": prompt,
        "negative_prompt": "grey",
        "seed": 2**63 - 1,
    }
    assert found["attention"] == attention and set(found["versions"]) >= {"adaspa-serve", "torch", "diffusers"}
    assert JobParams.model_validate({name: found[name] for name in JobParams.model_fields if name in found})


@pytest.mark.parametrize("output", list(OutputFormat))
@pytest.mark.parametrize("comment", ["", "made by hand", "[1]", "{}"])
def test_a_file_without_a_recipe_says_so(tmp_path: Path, output: OutputFormat, comment: str) -> None:
    with pytest.raises(NoRecipe, match="no recipe"):
        read_recipe(write(tmp_path / f"video.{output}", output, comment=comment))


@pytest.mark.parametrize("output", ["mp4", "webm"])
def test_the_same_frames_give_the_same_file_each_time(tmp_path: Path, output: str) -> None:
    random = np.random.default_rng(1)
    frames = [np.kron(random.integers(0, 255, (8, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8)) for _ in range(9)]
    files = set()
    for _ in range(40):
        path = tmp_path / f"video.{output}"
        writer = VideoWriter(path, OutputFormat(output), width=64, height=64, fps=5, num_frames=9, comment="")
        encode(iter(frames), writer)
        files.add(path.read_bytes())
    assert len(files) == 1
