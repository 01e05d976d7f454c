"""Scenes of a worker's parts that the audit drives itself: what they write and tell is computed once more."""

import errno
import hashlib
import io
import json
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import patch

import av
import numpy as np
import redis
from adaspa_api.report import TokenCount
from adaspa_api.words import OutputFormat
from adaspa_jobs.job import Input, JobParams, Progress, percent
from adaspa_jobs.storage import ObjectStorage, StorageUnavailable
from adaspa_jobs.store import JobCancelled, JobStore, Lease
from adaspa_worker import course as courses
from adaspa_worker import heartbeat, metrics
from adaspa_worker.blank import Look
from adaspa_worker.checkpoint import Checkpoints
from adaspa_worker.course import Course
from adaspa_worker.encode import VideoWriter
from adaspa_worker.group import GroupFailed
from adaspa_worker.lease import LeaseKeeper, TimeLimitExceeded, WorkerStopping
from adaspa_worker.preview import Previews, to_webp
from adaspa_worker.provenance import Provenance
from adaspa_worker.recipe import read_recipe
from adaspa_worker.runner import Runner
from adaspa_worker.scratch import clear
from adaspa_worker.sound import Sound
from adaspa_worker.source import ModelUnavailable
from admitting import create
from clips import durations_of, frames_of, sound_of
from drawn import corners, picture
from PIL import Image
from valkey_process import running_valkey
from virtual_time import Seconds
from waiting import until

from chaos.scenes import Scene
from chaos.stage import Stage
from chaos.stub_engine import StubEngine

ASKED: dict[str, Any] = {
    **{"model": "stub", "prompt": "a red circle", "width": 64, "height": 64, "num_frames": 9, "fps": 8},
    **{"steps": 6, "guidance_scale": 4.0, "seed": 1},
}
MESSAGES = 500
"""Characters of an error's message, at most."""


def params(**changes: Any) -> JobParams:
    return JobParams.model_validate(ASKED | changes)


class Clips(Scene):
    """Clips of known frames in each format, with sound and without."""

    name = "by hand: files of every format"
    promise = "a file holds the frames, the sound and the words that it was given, and its pictures show them"

    def play(self, stage: Stage) -> None:
        with TemporaryDirectory(prefix="clips-") as name:
            folder = Path(name)
            for output in OutputFormat:
                self.written(folder, output, frames=9, fps=8)
            self.written(folder, OutputFormat.gif, frames=7, fps=30)
            for frames in (1, 2, 3, 5, 13, 16, 17, 21):
                self.pictures(folder, frames)
            self.pictures(folder, 4, width=640, height=400)
            for output in (OutputFormat.mp4, OutputFormat.webm):
                for seconds in (0.4, 2.0):
                    self.sounds(folder, output, seconds)
            self.wrong(folder)
            self.blank()

    def frames(self, count: int, width: int = 64, height: int = 64) -> list[np.ndarray]:
        """Frames that tell which one they are: each darker than the one before."""
        first = np.asarray(corners(width, height)).astype(float)
        return [(first * (1 - 0.6 * at / max(count - 1, 1))).astype(np.uint8) for at in range(count)]

    def written(self, folder: Path, output: OutputFormat, frames: int, fps: int) -> None:
        given, path = self.frames(frames), folder / f"video.{output}"
        words = json.dumps({"model": "m", "prompt": "p" * 600, "seed": 1, "attention": {}})
        with VideoWriter(path, output, width=64, height=64, fps=fps, num_frames=frames, comment=words) as writer:
            for frame in given:
                writer.write(frame)
        found = frames_of(path)
        assert found.shape == (frames, 64, 64, 3), f"{output}: {found.shape} of {frames} frames"
        for at, (frame, wanted) in enumerate(zip(found, given, strict=True)):
            off = np.abs(frame.astype(float) - wanted)[8:24, 8:24].mean()
            assert off < 16, f"{output}: frame {at} is off by {off:.0f} of 255"
        assert read_recipe(path)["prompt"] == "p" * 600, f"{output}: carries other words"
        if output.content_type.startswith("image/"):
            unit = 10 if output is OutputFormat.gif else 1
            ends = [round(at * 1000 / fps / unit) * unit for at in range(frames + 1)]
            wanted = [end - begin for begin, end in pairwise(ends)]
            assert durations_of(path)[:-1] == wanted[:-1], (
                f"{output}: frames last {durations_of(path)} ms, not {wanted}"
            )
            with Image.open(path) as image:
                assert image.info.get("loop") == 0, f"{output}: plays {image.info.get('loop')} times"
        else:
            with av.open(str(path)) as container:
                (stream,) = container.streams.video
                assert stream.average_rate == fps and stream.frames in (0, frames), (
                    f"{output}: {stream.average_rate} fps"
                )
                lasts = float(container.duration or 0) / av.time_base
                assert abs(lasts - frames / fps) < 0.02, f"{output}: lasts {lasts} s, not {frames / fps}"

    def pictures(self, folder: Path, frames: int, width: int = 64, height: int = 64) -> None:
        given = self.frames(frames, width, height)
        writer = VideoWriter(folder / "v.mp4", width=width, height=height, fps=8, num_frames=frames)
        with writer:
            for frame in given:
                writer.write(frame)
        writer.write_thumbnail(folder / "t.webp")
        writer.write_spritesheet(folder / "s.webp")
        thumbnail = np.asarray(Image.open(folder / "t.webp").convert("RGB")).astype(float)
        assert thumbnail.shape == (height, width, 3), f"a thumbnail of {thumbnail.shape}"
        assert np.abs(thumbnail - given[0]).mean() < 10, "the thumbnail is not the first frame"
        scale = min(1.0, 320 / max(width, height))
        shown, cell = min(16, frames), (round(width * scale), round(height * scale))
        columns = min(4, shown)
        sheet = Image.open(folder / "s.webp").convert("RGB")
        size = columns * cell[0], -(-shown // columns) * cell[1]
        assert sheet.size == size, f"a spritesheet of {frames} frames has {sheet.size}, not {size}"
        for at in range(shown):
            wanted = given[round(at * (frames - 1) / max(shown - 1, 1))]
            left, top = at % columns * cell[0], at // columns * cell[1]
            found = np.asarray(sheet.crop((left + 4, top + 4, left + 20, top + 20))).astype(float).mean()
            assert abs(found - wanted[4:20, 4:20].mean()) < 6, f"picture {at} of {shown} of {frames} frames is another"

    def sounds(self, folder: Path, output: OutputFormat, seconds: float) -> None:
        rate, path, frames, fps = 24_000, folder / f"sound.{output}", 9, 8
        time_of = np.arange(round(rate * seconds)) / rate
        tone = (0.5 * np.sin(2 * np.pi * 440 * time_of)).astype(np.float32)
        with VideoWriter(path, output, width=64, height=64, fps=fps, num_frames=frames) as writer:
            writer.add_sound(Sound(np.stack([tone, tone]), rate))
            for frame in self.frames(frames):
                writer.write(frame)
        found, own = sound_of(path)
        lasts = found.shape[1] / own
        assert own == (48_000 if output is OutputFormat.webm else rate), f"{output}: a sound of {own} Hz"
        assert len(found) == 2 and abs(lasts - frames / fps) < 0.03, f"{output}: {len(found)} channels for {lasts} s"
        loud = [float(np.abs(found[0, round(own * at) : round(own * (at + 0.05))]).max()) for at in (0.2, 0.9)]
        assert loud[0] > 0.3, f"{output}: a tone of 0.5 is {loud[0]:.2f} loud"
        assert (loud[1] > 0.3) == (seconds > 1), f"{output}: at 0.9 s a sound of {seconds} s is {loud[1]:.2f} loud"

    def wrong(self, folder: Path) -> None:
        def write(frames: int, shape: tuple[int, ...] = (64, 64, 3), kind: Any = np.uint8) -> None:
            with VideoWriter(folder / "w.mp4", width=64, height=64, fps=8, num_frames=3) as writer:
                for _ in range(frames):
                    writer.write(np.zeros(shape, kind))

        for given in ((2,), (4,), (3, (64, 32, 3)), (3, (64, 64, 3), np.float32)):
            try:
                write(*given)
            except ValueError:
                continue
            raise AssertionError(f"a clip of 3 frames of 64x64 takes {given}")
        for size in ((63, 64), (64, 65), (0, 64), (16_386, 64)):
            try:
                VideoWriter(folder / "w.mp4", width=size[0], height=size[1], fps=8, num_frames=1)
            except ValueError:
                continue
            raise AssertionError(f"an MP4 of {size} is begun")

    def blank(self) -> None:
        grey, noise = (
            np.full((64, 64, 3), 90, np.uint8),
            np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8),
        )
        flat, edges = grey.copy(), np.where(noise > 127, 255, 0).astype(np.uint8)
        flat[::4] += 4
        some = grey.copy()
        some[::8] += 5
        for frames, wanted in (
            ([grey, grey, noise], ["2 of 3 frames are a single colour"]),
            ([grey, noise], []),
            ([flat, flat], ["2 of 2 frames are a single colour"]),
            ([some, some], []),
            ([edges, edges, noise], ["2 of 3 frames are only black and white"]),
            ([noise], []),
        ):
            look = Look()
            for frame in frames:
                look.at(frame)
            assert look.warnings() == wanted, f"{look.warnings()}, not {wanted}"


class Courses(Scene):
    """The phases and steps of a job are told."""

    name = "by hand: what a worker tells"
    promise = "progress is what was done, and the time that is left is that of the latest steps"

    def play(self, stage: Stage) -> None:
        told, now, before = list[Progress](), [100.0], self.counted()
        plain, courses.time = courses.time, SimpleNamespace(monotonic=lambda: now[0])  # type: ignore[assignment]
        try:
            course = Course(params(steps=20), told.append)
            with course.phase("loading"):
                now[0] += 3
            with course.phase("encoding_prompt"):
                now[0] += 0.25
            course.tokens = {"prompt_tokens": TokenCount(used=3, cut=0, limit=9)}
            with course.phase("denoising"):
                now[0] += 0.5
                course.resume(4)
                for step, seconds in ((5, 9.0), (6, 1.0), (7, 3.0), (8, 2.0), (9, 2.5), (10, 5.5), (11, 4.0)):
                    now[0] += seconds
                    course.step(step, "sparse" if step % 2 else "search")
            with course.phase("decoding"):
                now[0] += 1.5
            with course.phase("uploading"):
                now[0] += 0.125
        finally:
            courses.time = plain
        took = [9.0, 1.0, 3.0, 2.0, 2.5, 5.5, 4.0]
        left = [round((20 - at) * median(took[max(0, at - 9) : at - 4]), 1) for at in range(5, 12)]
        wanted = [("loading", 0, None), ("encoding_prompt", 0, None), ("denoising", 0, None), ("denoising", 4, None)]
        wanted += [("denoising", at, left[at - 5]) for at in range(5, 12)]
        wanted += [("decoding", 20, None), ("uploading", 20, None)]
        found = [(each.phase, each.step, each.eta_seconds) for each in told]
        assert found == wanted, f"was told {found}, not {wanted}"
        assert {each.steps for each in told} == {20}
        assert [each.resumed_from_step for each in told] == [None] * 3 + [4] * (len(told) - 3), "where it resumed"
        assert [each.prompt_tokens is not None for each in told] == [False] * 2 + [True] * (len(told) - 2)
        assert [each.step_kind for each in told[4:11]] == [*("sparse", "search") * 3, "sparse"]
        phases = {"loading": 3.0, "encoding_prompt": 0.25, "denoising": 27.5, "decoding": 1.5, "uploading": 0.125}
        assert course.timings == phases, f"{course.timings}, not {phases}"
        kinds = {"sparse": 9.0 + 3.0 + 2.5 + 4.0, "search": 1.0 + 2.0 + 5.5}
        after = self.counted()
        grew = {labels: round(seconds - before.get(labels, 0.0), 6) for labels, seconds in after.items()}
        assert {labels: seconds for labels, seconds in grew.items() if seconds} == kinds | phases, f"metrics: {grew}"
        shares = {"queued": 0, "loading": 0, "encoding_prompt": 1, "decoding": 96, "uploading": 99}
        for phase, share in shares.items():
            assert percent(Progress(phase=phase, steps=4)) == share, f"{phase} is {share} percent"  # type: ignore[arg-type]
        for step, share in ((0, 2), (1, 25), (2, 48), (3, 71), (4, 95)):
            assert percent(Progress(phase="denoising", step=step, steps=4)) == share, f"step {step} of 4"
        self.previews()
        self.heartbeats()

    def counted(self) -> dict[str, float]:
        """Seconds of steps and phases by their kind, as the worker's metrics have them."""
        samples = [each for kept in (metrics.step_seconds, metrics.phase_seconds) for each in kept.collect()[0].samples]
        own = [each for each in samples if each.name.endswith("_sum") and each.labels["model"] == "stub"]
        return {each.labels.get("kind") or each.labels["phase"]: each.value for each in own}

    def heartbeats(self) -> None:
        """The file whose age says whether a worker is alive."""

        def alive(most: float) -> bool:
            try:
                with patch("sys.argv", ["heartbeat", "--max-age", str(most)]):
                    heartbeat.main()
            except SystemExit:
                return False
            return True

        with TemporaryDirectory() as folder:
            os.environ[heartbeat.VARIABLE] = f"{folder}/beat"
            assert not alive(600), "a worker that has never beaten is alive"
            heartbeat.beat()
            assert alive(600), "a worker that has just beaten is dead"
            os.utime(f"{folder}/beat", (time.time() - 100, time.time() - 100))
            assert alive(200) and not alive(50), "a hundred seconds after its latest beat"
            del os.environ[heartbeat.VARIABLE]
        heartbeat.beat()
        assert not alive(600), "without a file nothing is known"

    def previews(self) -> None:
        """Once a second at most, and of all the time a fiftieth."""
        now, costs = [0.0], iter([0.01, 0.01, 0.05, *[0.01] * 20])

        def make() -> np.ndarray:
            now[0] += next(costs)
            return np.stack([np.asarray(corners(300, 200))] * 20)

        previews, due, wanted = Previews(make, 2.5, clock=lambda: now[0]), list[float](), list[float]()
        last, spent, cost = 0.0, 0.0, 0.02
        for at in range(1, 61):
            now[0] = max(now[0], at * 0.25)
            if now[0] - last >= 1.0 and spent + cost <= 0.02 * now[0]:
                wanted.append(now[0])
            if previews.due():
                due.append(now[0])
                began = now[0]
                assert previews.take()
                last, cost = now[0], now[0] - began
                spent += cost
            assert due == wanted, f"previews at {due}, not at {wanted}"
        assert len(due) > 5 and abs(previews.spent - spent) < 1e-9, f"{len(due)} previews in {previews.spent} s"
        noise = np.random.default_rng(1).integers(0, 256, (20, 400, 640, 3), np.uint8)
        plain = np.stack(Clips().frames(20, 300, 200))
        for frames, most in ((plain, (8,)), (noise, (1, 8)), (noise[:1], (1,)), (plain[::7], (3,))):
            content = to_webp(frames, 2.5)
            with Image.open(io.BytesIO(content)) as shown:
                count = getattr(shown, "n_frames", 1)
                assert len(content) <= 48 * 1024, f"a preview of {len(content)} bytes"
                assert max(shown.size) == 192, f"a preview of {shown.size}"
                assert abs(shown.width / shown.height - frames.shape[2] / frames.shape[1]) < 0.02, shown.size
                assert count in most, f"a preview of {count} frames of {len(frames)}"
                if count > 1:
                    shown.load()
                    assert abs(shown.info["duration"] * count - 2500) < 20 * count, shown.info["duration"]


class Keeps(Scene):
    """What a job's keeper asks of the store, by a clock that the audit sets."""

    name = "by hand: a lease that is kept"
    promise = "a cancel is heard within seconds, a lease never runs out, and every step is told once and in order"

    def play(self, stage: Stage) -> None:
        now, asked = [100.0], list[tuple[float, str, Any]]()

        def note(what: str) -> Callable[..., None]:
            return lambda _, *told: asked.append((now[0], what, told))

        store: Any = SimpleNamespace(
            lease_seconds=30.0, renew=note("renew"), hear=note("hear"), report_progress=note("told")
        )
        lease: Any = SimpleNamespace(job=SimpleNamespace(id="video_x"))
        clock = SimpleNamespace(monotonic=lambda: now[0], sleep=None)
        with patch("adaspa_worker.lease.time", clock):
            keeper = LeaseKeeper(
                store, lease, lambda: False, every=2.0, limit=1e9, unwind=30.0, abandon=print, tell_every=0.5
            )
            for _ in range(60):
                now[0] += 2.0
                assert keeper._hear()
            renewed = [at for at, what, _ in asked if what == "renew"]
            assert len(asked) == 60, f"in 120 s the store is asked {len(asked)} times whether the job may go on"
            gaps = [then - at for at, then in pairwise([100.0, *renewed])]
            assert gaps, "a lease of 30 s is never renewed"
            assert max(gaps) <= 10.0 and 10 <= len(renewed) <= 30, f"a lease of 30 s is renewed after {gaps}"
            asked.clear()
            for step in range(1, 41):
                now[0] += 0.1
                keeper.report(Progress(phase="denoising", step=step, steps=40))
            keeper._tell()
        times = [at for at, what, _ in asked if what == "told"]
        steps = [progress.step for _, what, told in asked if what == "told" for progress in told]
        assert steps == [*range(1, 41)], f"told of the steps {steps}"
        assert len(times) < 15 and all(then - at > 0.4 for at, then in pairwise(times[:-1])), f"told at {times}"


@contextmanager
def bench(kind: Callable[..., Any] | None = None, **changes: Any) -> Iterator[Any]:
    """A worker's runner with a store and a storage of its own, and the stand-in for a model."""
    with (
        running_valkey("--appendonly", "yes", "--appendfsync", "always") as folder,
        redis.Redis(unix_socket_path=f"{folder}/valkey.sock") as client,
    ):
        yield (kind or Workshop)(client, folder, **changes)


class Workshop:
    """What a scene of a worker needs."""

    def __init__(self, client: redis.Redis, folder: Path, **changes: Any) -> None:
        self.store = JobStore(client, max_attempts=3)
        self.storage = ObjectStorage(str(folder / "objects"))
        self.engine = StubEngine()
        self.name = f"by-hand-{secrets.token_hex(4)}"
        self.ended = threading.Event()
        self.stopping = threading.Event()
        own = {"store": self.store, "storage": self.storage, "engine": lambda _: self.engine, "name": self.name}
        own |= {"stopping": self.stopping.is_set, "end_process": self.ended.set, "hear_seconds": 0.2}
        own |= {
            "time_limit_seconds": 60.0,
            "back_off_seconds": (0.0,),
            "checkpoint_steps": 2,
            "checkpoint_seconds": 600.0,
        }
        self.runner = Runner(**(own | changes))

    def run(self, **asked: Any) -> Any:
        job = create(self.store, params(**asked))
        self.runner.run("stub")
        assert self.engine.snapshot() is None, "the engine still holds what it made of a job that is over"
        return self.store.get(job.id)


class Harmful:
    """Something that is run when it is read from a checkpoint, as whoever may write to storage could leave it there."""

    done: ClassVar[list[str]] = []

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return harm, ("done",)


def harm(word: str) -> None:
    """Note that it was run."""
    Harmful.done.append(word)


class Checkpointed(Scene):
    """Checkpoints of several attempts, whole and damaged."""

    name = "by hand: checkpoints"
    promise = "an attempt goes on from the latest checkpoint that is whole and of its own job"

    def play(self, stage: Stage) -> None:
        with bench() as at:
            job = create(at.store, params())
            first = at.store.claim("stub", "one")
            assert first is not None
            again = [
                first,
                *(
                    replace(first, job=first.job.model_copy(update={"attempt": n, "token": f"{n}-nonce"}))
                    for n in (2, 3)
                ),
            ]
            kept = [Checkpoints(at.storage, lease, 4, 600.0) for lease in again]
            self.due(kept[0])
            assert kept[0].load() is None
            kept[0].save({"step": 9, "value": 9})
            kept[0].save({"step": 10, "value": 10})
            assert self.there(at, job.id) == [(1, 10)], self.there(at, job.id)
            with patch.object(at.storage, "create", side_effect=StorageUnavailable("storage: it is full")):
                kept[0].save({"step": 11, "value": 11})
            assert self.there(at, job.id) == [(1, 10)], "a checkpoint that could not be written cost the one before"
            kept[1].save({"step": 4, "value": 24})
            assert self.there(at, job.id) == [(2, 4)], "an earlier attempt's goes"
            kept[0].save({"step": 11, "value": 11})
            assert self.there(at, job.id) == [(1, 11), (2, 4)], "a stalled attempt removes its successor's"
            found = kept[2].load()
            assert found is not None and (found["step"], found["value"]) == (4, 24), found
            latest = next(key for key in at.storage.keys(f"checkpoints/{job.id}/") if "/000002-" in key)
            content = bytearray(at.storage.read(latest))
            content[len(content) // 2] ^= 1
            at.storage.delete(latest)
            at.storage.create(latest, bytes(content))
            found = kept[2].load()
            assert found is not None and found["step"] == 11, f"beside a damaged one: {found}"
            own = next(key for key in at.storage.keys(f"checkpoints/{job.id}/") if "/000001-" in key)
            at.storage.create(f"checkpoints/{job.id}/000009-000009-x", at.storage.read(own))
            other = replace(first, job=first.job.model_copy(update={"params": params(seed=2)}))
            assert Checkpoints(at.storage, other, 4, 600.0).load() is None, "resumed from another job's checkpoint"
            assert not at.storage.create(own, b"another"), "a checkpoint was written over"
            for key in at.storage.keys(f"checkpoints/{job.id}/"):
                at.storage.delete(key)
            assert kept[2].load() is None
            kept[0].save({"step": 12, "value": Harmful()})
            assert self.there(at, job.id) == [(1, 12)] and kept[2].load() is None, "what a checkpoint brings is run"
            assert not Harmful.done

    def there(self, at: Workshop, job_id: str) -> list[tuple[int, int]]:
        names = [key.rpartition("/")[2].split("-") for key in at.storage.keys(f"checkpoints/{job_id}/")]
        return sorted((int(attempt), int(step)) for attempt, step, _ in names)

    def due(self, checkpoints: Checkpoints) -> None:
        found = [step for step in range(1, 10) if checkpoints.due(step)]
        assert found == [4, 5, 6, 7, 8, 9], f"every 4 steps: {found}"
        by_time = Checkpoints(checkpoints.storage, checkpoints.lease, None, 0.0)
        assert by_time.due(1), "every 0 s: at each step"
        assert not Checkpoints(checkpoints.storage, checkpoints.lease, None, 600.0).due(2000)


class Runs(Scene):
    """A runner whose engine, storage, time or orders are not as they were."""

    name = "by hand: a worker's jobs"
    promise = "a job ends as its error says, and what was the worker's fault is left to others"

    def play(self, stage: Stage) -> None:
        with bench() as at:
            self.whole(at)
            self.errors(at)
            self.faults(at)
            self.inputs(at)
            before = self.ends()
            self.resumed(at)
            self.stopped_late(at)
            after = self.ends()
            counted = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
            assert counted == {"released": 2, "completed": 2}, f"attempts are counted as {counted}"
        self.rests()
        with bench(fail_blank=True) as at:
            at.engine.frames = lambda latents, check: (frame for frame in [np.full((64, 64, 3), 9, np.uint8)] * 9)  # type: ignore[method-assign]
            assert at.run().error.code == "blank_clip"
        self.marked()
        self.limits()

    def whole(self, at: Workshop) -> None:
        job = at.run()
        assert (job.status, job.attempt, job.worker_errors, job.warnings) == ("completed", 1, 0, []), job
        assert set(job.artifacts) == {"video", "thumbnail", "spritesheet"}
        kinds = {name: (file.content_type, Path(file.key).name) for name, file in job.artifacts.items()}
        assert kinds == {
            "video": ("video/mp4", "video.mp4"),
            "thumbnail": ("image/webp", "thumbnail.webp"),
            "spritesheet": ("image/webp", "spritesheet.webp"),
        }, kinds
        for file in job.artifacts.values():
            content = at.storage.read(file.key)
            assert (len(content), hashlib.sha256(content).hexdigest()) == (file.bytes, file.sha256), file.key
        names = {"loading", "encoding_prompt", "denoising", "decoding", "encoding", "uploading", "previews"}
        assert set(job.timings) == names, f"timings of {sorted(job.timings)}"
        assert job.timings["denoising"] >= 6 * 0.02 and job.report.density == 1.0
        for output in OutputFormat:
            made = at.run(output_format=output)
            file = made.artifacts["video"]
            assert (file.content_type, Path(file.key).suffix) == (output.content_type, f".{output}"), file
            assert not file.has_audio
        self.told(at)
        own, *others = (Path(tempfile.mkdtemp(prefix=f"adaspa-{name}-")) for name in ("a[b", "a[b2", "a[b-2"))
        clear("a[b")
        assert not own.exists(), "a worker's earlier files stay"
        for other in others:
            assert other.exists(), f"a worker removes what is of another, {other.name}"
            other.rmdir()
        left = list(Path(tempfile.gettempdir()).glob(f"adaspa-{at.name}-*"))
        assert left == [], f"files of attempts stay on the disk: {left}"

    def told(self, at: Workshop) -> None:
        """A job with a sound, previews and words for both prompts."""
        tone = np.full((1, 24_000), 0.25, np.float32)
        plain = at.engine.sound, at.engine.preview, at.engine.attention, at.store.report_preview
        previews: list[tuple[int, int]] = []

        def seen(lease: Lease, progress: Progress, image: bytes) -> None:
            assert progress.preview_step is not None and image[:4] == b"RIFF"
            previews.append((progress.preview_step, progress.step))
            plain[3](lease, progress, image)

        at.engine.sound = lambda _: Sound(tone, 24_000)  # type: ignore[method-assign,assignment,return-value]
        at.engine.preview = lambda: np.stack(Clips().frames(4))  # type: ignore[method-assign,assignment,return-value]
        at.engine.attention = lambda _: {"sparsity": 0.5}  # type: ignore[method-assign]
        at.store.report_preview = seen  # type: ignore[method-assign]
        with patch("adaspa_worker.preview.EVERY_SECONDS", 0.0), patch("adaspa_worker.preview.SHARE", 100.0):
            job = at.run(negative_prompt="dark", seed=5)
        at.engine.sound, at.engine.preview, at.engine.attention, at.store.report_preview = plain  # type: ignore[method-assign]
        assert previews == [(step, step) for step in range(1, 6)], f"previews of steps {previews}"
        video = job.artifacts["video"]
        assert video.has_audio and at.store.preview(job.id) is None and job.timings["previews"] > 0
        with TemporaryDirectory() as folder:
            path = Path(folder) / "video.mp4"
            path.write_bytes(at.storage.read(video.key))
            recipe, (samples, rate) = read_recipe(path), sound_of(path)
        assert abs(samples.shape[1] / rate - 9 / 8) < 0.03, f"{samples.shape[1] / rate} s of sound"
        wanted = ASKED | {"seed": 5, "negative_prompt": "dark", "attention": {"sparsity": 0.5}}
        found = {name: recipe.get(name) for name in wanted}
        assert found == wanted, f"the file's recipe: {found}"
        assert set(recipe["versions"]) >= {"adaspa-serve", "adaspa", "torch", "diffusers"}, recipe["versions"]

    def errors(self, at: Workshop) -> None:
        """Errors of the job itself."""
        plain = at.engine.denoise
        for error, code, says in (
            (ValueError("shapes do not fit\nat line 3"), "generation_failed", "ValueError: shapes do not fit"),
            (MemoryError(), "out_of_memory", "memory"),
            (RuntimeError("x" * 900), "generation_failed", "RuntimeError"),
        ):
            at.engine.denoise = raising(error)  # type: ignore[method-assign]
            job = at.run()
            assert (job.status, job.error.code, job.attempt) == ("failed", code, 1), job.error
            assert says in job.error.message and "\n" not in job.error.message, job.error.message
            assert len(job.error.message) <= MESSAGES and not at.storage.keys(f"videos/{job.id}/")
        at.engine.denoise = plain  # type: ignore[method-assign]
        assert at.run().status == "completed" and not at.ended.is_set()

    def faults(self, at: Workshop) -> None:
        """Errors of the worker."""
        plain = at.engine.denoise
        for error, code in (
            (StorageUnavailable("s3://bucket is away"), "storage_unavailable"),
            (OSError(errno.ENOSPC, "no room"), "disk_full"),
            (GroupFailed("a process died"), "device_failed"),
        ):
            at.engine.denoise = raising(error)  # type: ignore[method-assign]
            job = create(at.store, params())
            for attempt in (1, 2, 3):
                assert at.store.get(job.id).status == "queued", f"{code}: before attempt {attempt}"  # type: ignore[union-attr]
                at.runner.run("stub")
            ended = at.store.get(job.id)
            assert ended is not None and ended.error is not None
            told = (ended.status, ended.error.code, ended.worker_errors, ended.lost_attempts, ended.attempt)
            assert told == ("failed", code, 3, 0, 3), told
            assert "bucket" not in ended.error.message, "clients are told of the inside"
            assert at.ended.is_set() == (code == "device_failed"), f"{code}: the process ends ({at.ended.is_set()})"
        at.ended.clear()
        at.engine.denoise = plain  # type: ignore[method-assign]
        at.runner.engine = raising(ModelUnavailable("/models/x: missing"))
        job = create(at.store, params())
        at.runner.run("stub")
        left = at.store.get(job.id)
        assert left is not None and (left.status, left.worker_errors) == ("queued", 1)
        at.runner.engine = lambda _: at.engine
        at.runner.run("stub")
        assert at.store.get(job.id).status == "completed"  # type: ignore[union-attr]
        self.storage_away(at)

    def storage_away(self, at: Workshop) -> None:
        check, at.storage.check = at.storage.check, raising(StorageUnavailable("away"))  # type: ignore[method-assign]
        at.runner._stored_at = -1e9
        job = create(at.store, params())
        at.runner.run("stub")
        assert at.store.get(job.id).attempt == 0, "a worker whose storage is away takes a job"  # type: ignore[union-attr]
        at.storage.check = check  # type: ignore[method-assign]
        put, tries = at.storage.put_file, []

        def failing(*args: Any) -> Any:
            tries.append(args)
            if len(tries) < 3:
                raise StorageUnavailable("away for a moment")
            return put(*args)

        at.storage.put_file = failing  # type: ignore[method-assign]
        with patch("adaspa_worker.attempt.RETRY_SECONDS", (0.01, 0.02)):
            at.runner.run("stub")
        done = at.store.get(job.id)
        assert done is not None and (done.status, done.attempt) == ("completed", 1), "an upload is not tried again"
        self.given_up(at)
        at.storage.put_file = put  # type: ignore[method-assign]
        self.storage_lost(at)

    def given_up(self, at: Workshop) -> None:
        """Storage stays away: an upload is tried for its time, which no pause outlasts."""
        clock, tries = Seconds(), list[float]()

        def away(*_: object) -> None:
            tries.append(clock.now)
            raise StorageUnavailable("away")

        at.storage.put_file = away  # type: ignore[assignment,method-assign]
        job = create(at.store, params())
        with (
            patch("adaspa_worker.attempt.RETRY_SECONDS", (1.0, 4.0)),
            patch("adaspa_worker.attempt.time", clock),
            patch.object(LeaseKeeper, "wait", lambda _, seconds: clock.sleep(seconds)),
            patch.object(at.runner, "upload_retry_seconds", 10.0),
        ):
            at.runner.run("stub")
        tried = [at - tries[0] for at in tries]
        assert tried == [0, 1, 5, 9], f"an upload that has 10 s is tried at {tried} s"
        at.store.request_cancel(job.id)

    def storage_lost(self, at: Workshop) -> None:
        """Storage goes right after it took a video; a job that needs it at once fails by it."""
        at.run()
        plain, at.engine.denoise = at.engine.denoise, raising(StorageUnavailable("away"))  # type: ignore[method-assign]
        check, at.storage.check = at.storage.check, raising(StorageUnavailable("away"))  # type: ignore[method-assign]
        job = create(at.store, params())
        for _ in range(3):
            at.runner.run("stub")
        left = at.store.get(job.id)
        told = left and (left.status, left.attempt, left.worker_errors)
        assert told == ("queued", 1, 1), f"a worker whose storage has gone takes the job again and again: {told}"
        at.engine.denoise, at.storage.check = plain, check  # type: ignore[method-assign]
        at.runner.run("stub")
        assert at.store.get(job.id).status == "completed"  # type: ignore[union-attr]

    def inputs(self, at: Workshop) -> None:
        content = picture(64, 64)
        given = {"key": "inputs/x/first.png", "content_type": "image/png", "bytes": len(content), "role": "first"}
        at.storage.create("inputs/x/first.png", content)
        seen: list[Any] = []
        encode = at.engine.encode_prompt
        at.engine.encode_prompt = lambda asked, images=None: (seen.append(images), encode(asked))[1]  # type: ignore[method-assign]
        for digest, key, status in (
            (hashlib.sha256(content).hexdigest(), "x", "completed"),
            ("ab" * 32, "x", "failed"),
            ("ab" * 32, "y", "failed"),
        ):
            image = Input.model_validate(given | {"sha256": digest, "key": f"inputs/{key}/first.png"})
            at.store.await_inputs(key)
            job = at.run(inputs=(image,))
            assert job.status == status, f"an image {key} with the digest {digest[:8]}: {job.status} ({job.error})"
            assert status == "completed" or "the given first frame" in job.error.message, job.error
        at.engine.encode_prompt = encode  # type: ignore[method-assign]
        (images,) = seen
        assert list(images) == ["first"] and np.array_equal(np.asarray(images["first"]), np.asarray(corners(64, 64)))

    def resumed(self, at: Workshop) -> None:
        """A worker that is told to stop leaves a checkpoint of its latest step, and the next goes on there."""
        job = create(at.store, params(steps=12))
        plain, steps = at.engine.denoise, list[int]()

        def stops(asked: JobParams, encoded: Any, on_step: Callable[[int, Any], None], resume: Any = None) -> Any:
            def step(done: int, kind: Any) -> None:
                steps.append(done)
                if done == 7 and not resume:
                    at.stopping.set()
                on_step(done, kind)

            return plain(asked, encoded, step, resume)

        at.engine.denoise = stops  # type: ignore[method-assign]
        try:
            at.runner.run("stub")
        except Exception as error:  # WorkerStopping, which tells Celery to put its message back
            assert type(error).__name__ == "WorkerStopping", error
        left = at.store.get(job.id)
        assert left is not None and (left.status, left.lost_attempts, left.worker_errors) == ("queued", 0, 0), left
        at.stopping.clear()
        at.runner.run("stub")
        done = at.store.get(job.id)
        assert done is not None and done.status == "completed" and done.progress.resumed_from_step == 7, (
            done and done.progress
        )
        assert steps == [*range(1, 8), *range(8, 13)], f"steps {steps}"
        at.engine.denoise = plain  # type: ignore[method-assign]

    def stopped_late(self, at: Workshop) -> None:
        """A worker that is told to stop while it decodes leaves what it has denoised, and the next only decodes."""
        job = create(at.store, params())
        denoise, frames, steps = at.engine.denoise, at.engine.frames, list[int]()

        def noted(asked: JobParams, encoded: Any, on_step: Callable[[int, Any], None], resume: Any = None) -> Any:
            return denoise(asked, encoded, lambda done, kind: (steps.append(done), on_step(done, kind))[1], resume)

        def stops(latents: Any, check: Callable[[], None]) -> Iterator[Any]:
            at.stopping.set()
            return frames(latents, check)

        at.engine.denoise, at.engine.frames = noted, stops  # type: ignore[method-assign,assignment]
        try:
            at.runner.run("stub")
        except WorkerStopping:
            at.stopping.clear()
        else:
            raise AssertionError("a worker that is told to stop goes on with its job")
        at.engine.frames = frames  # type: ignore[method-assign]
        at.runner.run("stub")
        at.engine.denoise = denoise  # type: ignore[method-assign]
        done = at.store.get(job.id)
        assert done is not None and (done.status, done.attempt) == ("completed", 2), done
        assert steps == [*range(1, 7)], f"a job that was denoised when its worker stopped takes the steps {steps}"

    def ends(self) -> dict[str, float]:
        """Attempts of all models by how they ended, as the worker's metrics have them."""
        (family,) = metrics.attempts.collect()
        found: dict[str, float] = {}
        for sample in family.samples:
            if sample.name.endswith("_total"):
                found[sample.labels["outcome"]] = found.get(sample.labels["outcome"], 0) + sample.value
        return found

    def rests(self) -> None:
        """A worker takes no jobs for longer and longer after failures of its own, and none before its process ends."""
        clock = Seconds()
        for error in (StorageUnavailable("away"), OSError(errno.ENOSPC, "no room"), GroupFailed("a process died")):
            ended: list[float] = []
            with bench(back_off_seconds=(7.0,)) as at, patch("adaspa_worker.runner.time", clock):
                at.engine.denoise = raising(error)  # type: ignore[method-assign]
                at.runner.end_process = lambda ended=ended: ended.append(clock.now)
                began = clock.now
                at.run()
            times = [clock.now - began, *(at - began for at in ended)]
            assert {round(each) for each in times} == {7}, f"after {error!r} it rests, and ends, at {times} s"
            assert bool(ended) == isinstance(error, GroupFailed), f"after {error!r} its process ends: {bool(ended)}"
        with bench(back_off_seconds=(1.0, 5.0, 15.0, 60.0)) as at, patch("adaspa_worker.runner.time", clock):
            at.engine.denoise, plain = raising(StorageUnavailable("away")), at.engine.denoise  # type: ignore[method-assign]
            found = []
            for _ in range(5):
                began = clock.now
                at.run()
                found.append(round(clock.now - began))
            assert found == [1, 5, 15, 60, 60], f"a worker that fails again and again rests for {found} s"
            at.engine.denoise = plain  # type: ignore[method-assign]
            while at.store.load("stub").unfinished:
                at.runner.run("stub")
            at.engine.denoise = raising(StorageUnavailable("away"))  # type: ignore[method-assign]
            began = clock.now
            at.run()
            assert round(clock.now - began) == 1, "a job that it did is forgotten"

    def marked(self) -> None:
        with bench(provenance=Provenance("AI")) as at:
            grey = np.full((64, 64, 3), 128, np.uint8)
            at.engine.frames = lambda latents, check: (frame for frame in [grey] * 9)  # type: ignore[method-assign]
            job = at.run()
            shown = np.asarray(
                Image.open(io.BytesIO(at.storage.read(job.artifacts["thumbnail"].key))).convert("L")
            ).astype(int)
            assert abs(shown[:32].mean() - 128) < 4, "the mark is in the lower corner alone"
            assert shown[48:, :24].max() > 180 and shown[48:, :24].min() < 100, "there is no mark"

    def limits(self) -> None:
        """Jobs that take too long, hang, or are cancelled in a phase without steps."""
        with bench(time_limit_seconds=0.2, unwind_seconds=30.0) as at:
            job = at.run(steps=100)
            assert (job.status, job.error.code) == ("failed", "time_limit"), job.error
        with bench(time_limit_seconds=600.0, unwind_seconds=30.0) as at:
            job = create(at.store, params())
            at.store.client.hset(f"adaspa:job:{job.id}", "ran_ms", "599999")
            at.runner.run("stub")
            ended = at.store.get(job.id)
            assert ended is not None and ended.error is not None, "the limit is that of each attempt"
            assert ended.error.code == "time_limit", ended.error
        with bench() as at:
            lease = create(at.store, params()) and at.store.claim("stub", "one")
            assert lease is not None
            self.hangs(at, lease)

    def hangs(self, at: Workshop, lease: Lease) -> None:
        abandoned: list[Exception] = []

        def keeper(limit: float, unwind: float) -> LeaseKeeper:
            return LeaseKeeper(
                at.store, lease, lambda: False, every=0.05, limit=limit, unwind=unwind, abandon=abandoned.append
            )

        with keeper(60.0, 0.2) as keeps:
            keeps.report(Progress(phase="decoding", step=6, steps=6))
            at.store.request_cancel(lease.job.id)
            until(lambda: abandoned, "an attempt that hangs after its cancel is abandoned")
        assert isinstance(abandoned[0], JobCancelled), abandoned
        with keeper(0.2, 30.0) as keeps:
            until(lambda: raises(keeps.check), "the job hears that its time is over, or of its cancel")
        assert len(abandoned) == 1, "it was given no time to end"


def raises(check: Callable[[], None]) -> bool:
    try:
        check()
    except (JobCancelled, TimeLimitExceeded):
        return True
    return False


def raising(error: Exception) -> Callable[..., Any]:
    """A function that only raises."""

    def function(*_: Any, **__: Any) -> Any:
        raise error

    return function


SCENES: list[Scene] = [Clips(), Courses(), Keeps(), Checkpointed(), Runs()]
