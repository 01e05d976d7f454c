"""A clip's files: what ends their making, what is left of the decoding then, and what is said of the frames."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adaspa_api.words import Kind, OutputFormat
from adaspa_jobs.job import JobParams
from adaspa_worker.blank import BlankClip
from adaspa_worker.context import Context
from adaspa_worker.course import Course
from adaspa_worker.encode import VideoWriter, encode
from adaspa_worker.provenance import Provenance
from adaspa_worker.tasks import clip
from adaspa_worker.tasks.given import READERS
from chaos.stub_engine import StubEngine
from chaos.workshop import raising
from PIL import Image

COUNT, SIDE = 9, 64


class Decoding:
    """Frames that are decoded one by one."""

    def __init__(self, frames: list[np.ndarray]) -> None:
        self._frames, self.decoded, self.closed = iter(frames), 0, False

    def __iter__(self) -> "Decoding":
        return self

    def __next__(self) -> np.ndarray:
        frame = next(self._frames)
        self.decoded += 1
        return frame

    def close(self) -> None:
        self.closed = True


class Engine(StubEngine):
    """Decodes the frames that it is given."""

    def __init__(self, frames: list[np.ndarray]) -> None:
        super().__init__()
        self.decoding = Decoding(frames)

    def frames(self, latents: object, check: Callable[[], None]) -> Any:
        return self.decoding


def noise(seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 255, (SIDE, SIDE, 3), np.uint8) for _ in range(COUNT)]


@pytest.fixture
def context(params: Callable[..., JobParams], tmp_path: Path) -> Callable[..., Context]:
    """Makes a context of these frames."""

    def make(frames: list[np.ndarray], output: str = "mp4", **changes: Any) -> Context:
        asked = params(width=SIDE, height=SIDE, num_frames=COUNT, output_format=OutputFormat(output))
        course = Course(asked, lambda progress: None)
        own: dict[str, Any] = {"engine": Engine(frames), "folder": tmp_path, "course": course}
        return Context(params=asked, on_step=course.step, **own | changes)

    return make


def written(context: Context) -> tuple[dict[str, Path], list[str]]:
    nothing: Any = None
    return clip.write_files(context, nothing, None)


class Stops(Exception):
    """Ends the making of the files."""


FAULTS: dict[str, tuple[object, str, int]] = {
    "a frame cannot be written": (VideoWriter, "write", 1),
    "the file cannot be opened": (VideoWriter, "__enter__", 0),
    "the job is to stop": (Context, "check", 0),
    "the mark cannot be drawn": (clip, "marked", 0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_ends_the_writing_ends_the_decoding_too(
    context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """It would hold the GPU and its group, beside the next job."""
    owner, name, decoded = FAULTS[fault]
    given = context(noise(), **({"check": raising(Stops())} if name == "check" else {}))
    engine: Any = given.engine
    if name != "check":
        monkeypatch.setattr(owner, name, raising(Stops()))
    with pytest.raises(Stops):
        written(given)
    assert engine.decoding.closed and engine.decoding.decoded == decoded


@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.parametrize("flat", [0, 4, 5, 9])
def test_a_clip_of_which_most_shows_nothing_fails_or_says_so(
    context: Callable[..., Context], flat: int, fails: bool
) -> None:
    frames = noise()
    frames[:flat] = [np.full_like(frames[0], 90)] * flat
    given = context(frames, fail_blank=fails)
    said = [f"{flat} of {COUNT} frames are a single colour"] if flat > COUNT / 2 else []
    if said and fails:
        with pytest.raises(BlankClip, match=said[0]):
            written(given)
        return
    files, warnings = written(given)
    assert warnings == said
    assert [path.name for path in files.values()] == ["video.mp4", "thumbnail.webp", "spritesheet.webp"]
    assert all(path.stat().st_size for path in files.values())


def test_the_job_may_be_stopped_before_each_frame(context: Callable[..., Context]) -> None:
    seen: list[int] = []
    given = context(noise(), check=lambda: seen.append(given.engine.decoding.decoded))  # type: ignore[attr-defined]
    written(given)
    assert seen == list(range(COUNT + 1))


def test_what_is_odd_is_said_before_what_is_unsigned(context: Callable[..., Context]) -> None:
    class Unsigned:
        def sign(self, *_: object) -> None:
            """Files of this type hold no manifest."""

    given = context([np.zeros((SIDE, SIDE, 3), np.uint8)] * COUNT, "webm", provenance=Provenance(signer=Unsigned()))  # type: ignore[arg-type]
    _, warnings = written(given)
    assert warnings == [
        "9 of 9 frames are a single colour",
        "The file is not signed, because webm cannot hold a C2PA manifest.",
    ]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_an_image_is_read_in_the_colours_that_it_shows_and_its_file_let_go(tmp_path: Path, mode: str) -> None:
    path, colour = tmp_path / "image.png", (200, 100, 50) if mode in ("RGB", "RGBA", "P") else (255, 255, 255)
    Image.new("RGB", (6, 4), colour).convert(mode).save(path)
    image = READERS[Kind.image](path)
    assert isinstance(image, Image.Image) and (image.mode, image.size) == ("RGB", (6, 4))
    assert np.abs(np.asarray(image).astype(int) - colour).max() <= (0 if mode != "P" else 30)
    assert path not in {held.resolve() for held in Path("/proc/self/fd").iterdir()}


def test_a_video_is_read_frame_by_frame(tmp_path: Path) -> None:
    levels = [20, 60, 100, 140, 180, 220]
    path = tmp_path / "video.mp4"
    writer = VideoWriter(path, width=64, height=48, fps=8, num_frames=len(levels))
    encode((np.full((48, 64, 3), level, np.uint8) for level in levels), writer)
    frames = READERS[Kind.video](path)
    assert isinstance(frames, list) and {(frame.mode, frame.size) for frame in frames} == {("RGB", (64, 48))}
    assert np.abs([np.asarray(frame).mean() for frame in frames] - np.array(levels)).max() < 4
