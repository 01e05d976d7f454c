"""Scenes of jobs that a worker runs: where each goes on, how it ends, and what that costs the worker."""

import errno
import hashlib
import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
from adaspa_api.words import OutputFormat
from adaspa_jobs.job import Input, JobParams, Progress
from adaspa_jobs.storage import StorageUnavailable
from adaspa_jobs.store import JobCancelled, Lease
from adaspa_worker import metrics
from adaspa_worker.checkpoint import Checkpoints
from adaspa_worker.group import GroupFailed
from adaspa_worker.lease import LeaseKeeper, TimeLimitExceeded, WorkerStopping
from adaspa_worker.provenance import Provenance
from adaspa_worker.recipe import read_recipe
from adaspa_worker.scratch import clear
from adaspa_worker.sound import Sound
from adaspa_worker.source import ModelUnavailable
from admitting import create
from clips import sound_of
from drawn import corners, picture
from PIL import Image
from virtual_time import Seconds
from waiting import until

from chaos.scenes import Scene
from chaos.stage import Stage
from chaos.workshop import ASKED, Workshop, bench, fading, params, raising

MESSAGES = 500
"""Characters of an error's message, at most."""


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
        at.engine.preview = lambda: np.stack(fading(4))  # type: ignore[method-assign,assignment,return-value]
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


SCENES: list[Scene] = [Checkpointed(), Runs()]
