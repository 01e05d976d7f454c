"""Each format's file: what it holds, at what rate, and the recipe that can be read back from it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import av
import numpy as np
import pytest
from adaspa_api.words import OutputFormat
from adaspa_jobs.job import JobParams
from adaspa_worker import formats
from adaspa_worker.encode import VideoWriter, encode
from adaspa_worker.formats.webp import HAS_EXIF
from adaspa_worker.recipe import PACKAGES, NoRecipe, read_recipe, write_recipe
from adaspa_worker.sound import Sound
from clips import durations_of, frames_of, sound_of, tones
from PIL import Image

LEVELS = [10, 60, 110, 160, 210, 240, 30]


def write(path: Path, output: OutputFormat, fps: int = 5, comment: str = "", sound: Sound | None = None) -> Path:
    writer = VideoWriter(path, output, width=64, height=48, fps=fps, num_frames=len(LEVELS), comment=comment)
    encode((np.full((48, 64, 3), level, np.uint8) for level in LEVELS), writer, sound)
    return path


@pytest.mark.parametrize("output", ["mp4", "webm"])
@pytest.mark.parametrize(("given", "channels"), [(24_000, 2), (48_000, 2), (16_000, 1)])
@pytest.mark.parametrize("seconds", [0.5, 3.0])
def test_a_sound_is_as_long_as_the_frames_to_the_sample(
    tmp_path: Path, output: str, given: int, channels: int, seconds: float
) -> None:
    """One that is shorter ends in silence, one that is longer is cut off; frames are no whole numbers of samples."""
    sound = tones(seconds, given, channels)
    path = write(tmp_path / f"video.{output}", OutputFormat(output), fps=13, sound=sound)
    heard, rate = sound_of(path)
    length = len(LEVELS) / 13
    assert rate == (48_000 if output == "webm" else given)
    assert heard.shape == (channels, round(length * rate))
    wanted = tones(min(seconds, length), rate, channels).samples
    sounding = heard[:, : wanted.shape[1]]
    assert np.square(sounding - wanted).mean() < np.square(wanted).mean() / 100  # 20 dB
    assert np.abs(heard[:, wanted.shape[1] + rate // 50 :]).max(initial=0) < 0.02
    assert len(frames_of(path)) == len(LEVELS)


@pytest.mark.parametrize("output", ["gif", "webp"])
def test_a_moving_picture_holds_no_sound(tmp_path: Path, output: str) -> None:
    assert not OutputFormat(output).holds_sound
    with pytest.raises(ValueError, match="cannot hold sound"):
        write(tmp_path / f"video.{output}", OutputFormat(output), sound=tones(1, 24_000))


@pytest.mark.parametrize("output", OutputFormat)
def test_every_frame_is_there_in_order(tmp_path: Path, output: OutputFormat) -> None:
    decoded = frames_of(write(tmp_path / f"video.{output}", output))
    assert decoded.shape == (len(LEVELS), 48, 64, 3)
    assert np.abs(decoded.mean(axis=(1, 2, 3)) - LEVELS).max() < 4


@pytest.mark.parametrize(("output", "codec"), [("mp4", "h264"), ("webm", "vp9")])
def test_a_video_has_the_asked_rate(tmp_path: Path, output: str, codec: str) -> None:
    with av.open(str(write(tmp_path / f"video.{output}", OutputFormat(output)))) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name.removeprefix("lib"), stream.average_rate) == (codec, 5)


@pytest.mark.parametrize(("output", "lasting"), [("gif", {30, 40}), ("webp", {33, 34})])
def test_a_picture_repeats_for_ever_and_keeps_a_rate_that_is_no_whole_number(
    tmp_path: Path, output: str, lasting: set[int]
) -> None:
    path = write(tmp_path / f"video.{output}", OutputFormat(output), fps=30)
    with Image.open(path) as image:
        assert image.info["loop"] == 0
    durations = durations_of(path)
    assert set(durations) == lasting and abs(sum(durations) - 1000 * len(LEVELS) / 30) <= 10


@pytest.mark.parametrize("output", [output for output in OutputFormat if output.max_fps])
def test_browsers_play_each_frame_of_a_picture_for_its_time_up_to_the_highest_rate(
    tmp_path: Path, output: OutputFormat
) -> None:
    """They show one of 10 ms or less for 100 ms."""
    assert output.max_fps
    least = []
    for fps in (output.max_fps, output.max_fps + 1):
        path = tmp_path / f"{fps}.{output}"
        writer = VideoWriter(path, output, width=16, height=16, fps=fps, num_frames=100)
        encode((np.full((16, 16, 3), level % 2 * 200, np.uint8) for level in range(100)), writer)
        durations = durations_of(path)
        assert len(durations) == 100
        least.append(min(durations[:-1]))
    assert least[0] > 10 >= least[1]


@pytest.mark.parametrize("output", ["gif", "webp"])
def test_a_picture_keeps_the_colours_of_a_frame_with_many(tmp_path: Path, output: str) -> None:
    y, x = np.mgrid[0:48, 0:64]
    frame = np.stack([x * 4, y * 5, 255 - x * 4], -1).astype(np.uint8)
    path = tmp_path / f"video.{output}"
    writer = VideoWriter(path, OutputFormat(output), width=64, height=48, fps=8, num_frames=2)
    encode([frame, frame[::-1].copy()], writer)
    assert np.abs(frames_of(path)[0].astype(int) - frame).mean() < 5


@pytest.mark.parametrize("output", OutputFormat)
@pytest.mark.parametrize("count", [1, 3])
def test_a_clip_that_stands_still_carries_its_recipe_too(tmp_path: Path, output: OutputFormat, count: int) -> None:
    path = tmp_path / f"video.{output}"
    writer = VideoWriter(path, output, width=64, height=48, fps=8, num_frames=count, comment="kept")
    encode([np.full((48, 64, 3), 90, np.uint8)] * count, writer)
    assert formats.of(output).read_comment(path) == "kept"
    assert np.abs(frames_of(path).astype(int) - 90).max() < 4


def chunks_of(content: bytes) -> list[tuple[bytes, bytes]]:
    """Names and data of a RIFF file's chunks; each begins at an even place (Google's WebP container specification)."""
    assert content[:4] == b"RIFF" and content[8:12] == b"WEBP" and len(content) % 2 == 0
    assert int.from_bytes(content[4:8], "little") == len(content) - 8
    found, at = [], 12
    while at < len(content):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        found.append((content[at : at + 4], content[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    assert at == len(content)
    return found


@pytest.mark.parametrize("length", [0, 1, 4, 5, 6, 7])
@pytest.mark.parametrize("levels", [LEVELS, [90, 90, 90]], ids=["moving", "still"])
def test_a_webp_is_whole_whatever_the_length_of_its_comment(tmp_path: Path, length: int, levels: list[int]) -> None:
    path, comment = tmp_path / "video.webp", "a recipe"[:length]
    writer = VideoWriter(path, OutputFormat.webp, width=64, height=48, fps=5, num_frames=len(levels), comment=comment)
    encode((np.full((48, 64, 3), level, np.uint8) for level in levels), writer)
    (head, about), *others = chunks_of(path.read_bytes())
    assert head == b"VP8X" and about[0] & HAS_EXIF, "readers look there whether there is a comment"
    assert (about[4:7], about[7:10]) == ((63).to_bytes(3, "little"), (47).to_bytes(3, "little"))
    assert others[-1][0] == b"EXIF" and formats.of(OutputFormat.webp).read_comment(path) == comment
    assert len(frames_of(path)) >= 1


def test_a_gif_carries_a_comment_of_any_length(tmp_path: Path) -> None:
    """Which it has in blocks of 255 bytes."""
    for length in (1, 254, 255, 256, 510, 511):
        path, comment = tmp_path / f"{length}.gif", "recipe"[:1] * length
        assert formats.of(OutputFormat.gif).read_comment(write(path, OutputFormat.gif, comment=comment)) == comment
        assert len(frames_of(path)) == len(LEVELS)
    assert len([*tmp_path.iterdir()]) == 6, "nothing is left beside them"


@pytest.mark.parametrize("output", list(OutputFormat))
def test_the_same_frames_give_the_same_file(tmp_path: Path, output: OutputFormat) -> None:
    sound = tones(1, 24_000) if output.holds_sound else None
    first, second = (write(tmp_path / f"{name}.{output}", output, sound=sound) for name in "ab")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("output", list(OutputFormat))
def test_the_recipe_is_read_back_from_the_file(
    tmp_path: Path, params: Callable[..., JobParams], output: OutputFormat
) -> None:
    prompt = 'a "red" circle; für 赤い円 🔴\n\x00 = \\ ' + "x" * 600
    asked = params(prompt=prompt, negative_prompt="grey", seed=2**63 - 1, flow_shift=3.5, output_format=output)
    attention = {"sparsity": 0.8, "searches": [10, 30]}
    found = read_recipe(write(tmp_path / f"video.{output}", output, comment=write_recipe(asked, attention)))
    assert {name: found[name] for name in ("prompt", "negative_prompt", "seed", "flow_shift")} == {
        "prompt": prompt,
        "negative_prompt": "grey",
        "seed": 2**63 - 1,
        "flow_shift": 3.5,
    }
    assert found["attention"] == attention and set(found["versions"]) >= {"adaspa-serve", "torch", "diffusers"}
    assert JobParams.model_validate({name: found[name] for name in JobParams.model_fields if name in found})


LEAST = {"model": "demo", "prompt": "x", "seed": 1, "attention": {}}
"""Fields of every recipe."""
NO_RECIPES = [
    *("", "made by hand", "3", "null", "[1]", "{}", json.dumps([*LEAST])),
    *(json.dumps({name: value for name, value in LEAST.items() if name != missing}) for missing in LEAST),
]


def test_a_recipe_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "video.webp", OutputFormat.webp, comment=json.dumps(LEAST))
    assert read_recipe(path) == LEAST


INSTEAD = {"quality", "sparsity", "retained_mass", "warmup", "output_format", "remixed_from"}
"""Of these the attention's settings, the file itself and nothing tell."""


def test_a_recipe_has_all_that_was_asked_for(params: Callable[..., JobParams]) -> None:
    given = {"key": "inputs/x/first.png", "content_type": "image/png", "bytes": 9, "role": "first", "sha256": "ab" * 32}
    changes: dict[str, Any] = {
        **{"guidance_scale_2": 3.5, "flow_shift": 2.5, "audio": True, "quality": "fast", "seed": 7, "fps": 11},
        **{"loras": [{"name": "a", "scale": 0.5, "sha256": "cd" * 32}], "inputs": [given], "negative_prompt": "grey"},
    }
    asked = params(**changes)
    recipe = json.loads(write_recipe(asked, {"sparsity": 0.25}))
    own = recipe.pop("inputs"), recipe.pop("attention"), {*recipe.pop("versions")}
    assert own == ({"first": {"sha256": "ab" * 32}}, {"sparsity": 0.25}, {*PACKAGES})
    assert recipe == {
        name: value for name, value in asked.model_dump(mode="json").items() if name not in INSTEAD | {"inputs"}
    }


def test_a_file_of_another_kind_is_no_video_file(tmp_path: Path) -> None:
    for name in ("video.mov", "video", "thumbnail.png", "mp4"):
        with pytest.raises(NoRecipe, match=rf"{name}: not a video file; allowed: \.mp4, \.webm, \.gif, \.webp$"):
            read_recipe(tmp_path / name)


@pytest.mark.parametrize("output", list(OutputFormat))
@pytest.mark.parametrize("comment", NO_RECIPES)
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


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.parametrize("output", ["mp4", "webm"])
def test_a_machine_with_fewer_cores_makes_the_same_file(tmp_path: Path, output: str) -> None:
    random, whole = np.random.default_rng(1), os.sched_getaffinity(0)
    frames = [np.kron(random.integers(0, 255, (24, 40, 3), np.uint8), np.ones((16, 16, 1), np.uint8)) for _ in range(5)]
    found = []
    for cores in (whole, {min(whole)}):
        os.sched_setaffinity(0, cores)
        try:
            path = tmp_path / f"video-{len(cores)}.{output}"
            writer = VideoWriter(path, OutputFormat(output), width=640, height=384, fps=5, num_frames=5)
            encode(frames, writer)
        finally:
            os.sched_setaffinity(0, whole)
        found.append(path.read_bytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("output", ["mp4", "webm"])
def test_each_channel_of_a_sound_has_its_bits(tmp_path: Path, output: str) -> None:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, (2, 96_000)).astype(np.float32)
    bits = []
    for channels in (1, 2):
        path = tmp_path / f"{channels}.{output}"
        writer = VideoWriter(path, OutputFormat(output), width=64, height=48, fps=4, num_frames=8)
        encode([np.zeros((48, 64, 3), np.uint8)] * 8, writer, Sound(noise[:channels], 48_000))
        with av.open(str(path)) as container:
            bits.append(sum(packet.size for packet in container.demux(audio=0)) * 8 / 2)
    assert bits[0] == pytest.approx(96_000, rel=0.2) and bits[1] == pytest.approx(192_000, rel=0.2)


@pytest.mark.parametrize("output", list(OutputFormat))
def test_a_file_whose_encoder_does_not_open_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: OutputFormat
) -> None:
    opened: list[Any] = []

    class Container:
        """A file to which no stream can be added."""

        metadata: ClassVar[dict[str, str]] = {}

        def __init__(self, *_: Any, **__: Any) -> None:
            self.closed = False
            opened.append(self)

        def add_stream(self, *_: Any, **__: Any) -> None:
            raise ValueError("no such encoder")

        def close(self) -> None:
            self.closed = True

    monkeypatch.setattr(av, "open", Container)
    with pytest.raises(ValueError, match="no such encoder"):
        write(tmp_path / f"video.{output}", output)
    assert [each.closed for each in opened] == [True]
