"""One attempt at one job: its task, from the loading of the model to the upload."""

import hashlib
import logging
import time
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from adaspa_api.report import AttentionReport
from adaspa_api.words import Role, StepKind
from adaspa_jobs.job import Artifact
from adaspa_jobs.storage import ObjectMissing, StorageUnavailable, attempt_prefix
from adaspa_jobs.store import Lease

from adaspa_worker import metrics, tasks
from adaspa_worker.checkpoint import Checkpoints
from adaspa_worker.context import Context, Made
from adaspa_worker.course import Course
from adaspa_worker.failure import NotLoaded
from adaspa_worker.lease import RETRY_SECONDS, LeaseKeeper, WorkerStopping
from adaspa_worker.preview import Previews
from adaspa_worker.resources import Resources
from adaspa_worker.scratch import scratch

if TYPE_CHECKING:
    from adaspa_worker.pipeline import Engine

log = logging.getLogger(__name__)

PICTURES = "image/webp"
"""Content type of thumbnail and spritesheet."""


class InputLost(Exception):
    """An image of the job is not to be had."""


@dataclass
class Attempt:
    """One attempt at one job.

    A cancel, and every other reason to stop, is heard before and after the loading of the model, between two layers of
    the text encoder, after each denoising step, before each latent frame is decoded and each frame encoded, and between
    two uploads. What cannot be interrupted: the loading, one call of the device, and the upload of one file.
    """

    resources: Resources
    lease: Lease
    engine: "Engine | None" = None
    """Once it is loaded."""

    def run(self, keeper: LeaseKeeper) -> "Result":
        """Raises NotLoaded, and whatever ends the job or the attempt."""
        params, resources = self.lease.job.params, self.resources
        course = Course(params, keeper.report)
        with course.phase("loading"):
            self.engine = engine = self.load(params.model)
        checkpoints = Checkpoints(
            resources.storage,
            self.lease,
            resources.checkpoint_steps,
            resources.checkpoint_seconds,
            entry=resources.entry,
        )
        previews = Previews(engine.preview, params.num_frames / params.fps)

        def on_step(done: int, kind: StepKind | None) -> None:
            course.step(done, kind)
            if done < params.steps and previews.due() and (image := previews.take()):
                course.preview_step = done
                keeper.report_preview(course.progress.model_copy(update={"preview_step": done}), image)
            if done < params.steps and checkpoints.due(done) and (snapshot := engine.snapshot()):
                keeper.check()
                checkpoints.save(snapshot)

        with scratch(resources.name) as folder:
            context = Context(
                params=params,
                engine=engine,
                folder=Path(folder),
                course=course,
                on_step=on_step,
                inputs=self.fetch(Path(folder)),
                fail_blank=resources.fail_blank,
                provenance=resources.provenance,
                check=keeper.check,
                snapshot=checkpoints.load,
            )
            try:
                made = tasks.run(context)
                course.record("previews", previews.spent)
                self.observe(made)
                with course.phase("uploading"):
                    artifacts = {name: self.upload(name, path, keeper) for name, path in made.files.items()}
                    artifacts["video"].has_audio = made.has_audio
                keeper.check()
            except WorkerStopping:
                if snapshot := engine.snapshot():
                    checkpoints.save(snapshot)
                raise
        return Result(artifacts, made.report, course.timings, made.warnings)

    def load(self, model: str) -> "Engine":
        try:
            return self.resources.engine(model)
        except Exception as error:
            raise NotLoaded from error

    def fetch(self, folder: Path) -> dict[Role, Path]:
        """Bring the job's images or its video. Raises StorageUnavailable, and InputLost: one is not what was stored."""
        files = {}
        for given in self.lease.job.params.inputs:
            said = f"the given {given.role.variant.replace('_', ' ')}"
            try:
                content = self.resources.storage.read(given.key)
            except ObjectMissing as error:
                raise InputLost(f"{said} is no longer in storage") from error
            if hashlib.sha256(content).hexdigest() != given.sha256:
                raise InputLost(f"{said} in storage has changed")
            files[given.role] = folder / Path(given.key).name
            files[given.role].write_bytes(content)
        return files

    def reset(self) -> None:
        """Drop what the engine holds of the job, and note the GPU's memory that is left."""
        if self.engine is not None:
            self.engine.reset()
            metrics.observe_gpu()

    def observe(self, made: Made) -> None:
        metrics.observe_report(self.lease.job.params.model, made.report)
        for reason in made.report.fell_back:
            log.warning("%s: attention fell back: %s", self.lease.job.id, reason)
        for warning in made.warnings:
            log.warning("%s: %s", self.lease.job.id, warning)

    def upload(self, variant: str, path: Path, keeper: LeaseKeeper) -> Artifact:
        """Store a file; while storage is away, again and again for a while: the video is done but for this."""
        deadline = time.monotonic() + self.resources.upload_retry_seconds
        delays = chain(RETRY_SECONDS, repeat(RETRY_SECONDS[-1]))
        while True:
            keeper.check()
            try:
                return self.put(variant, path)
            except StorageUnavailable as error:
                delay = next(delays)
                if time.monotonic() + delay > deadline:
                    raise
                log.warning(
                    "%s: could not store %s, trying again in %s s: %s", self.lease.job.id, variant, delay, error
                )
            keeper.wait(delay)

    def put(self, variant: str, path: Path) -> Artifact:
        video = self.lease.job.params.output_format.content_type
        content_type = video if variant == "video" else PICTURES
        key = f"{attempt_prefix(self.lease.job.id, self.lease.token)}{path.name}"
        return self.resources.storage.put_file(key, path, content_type)


class Result(NamedTuple):
    """Outcome of a completed attempt."""

    artifacts: dict[str, Artifact]
    report: AttentionReport
    timings: dict[str, float]
    warnings: list[str]
