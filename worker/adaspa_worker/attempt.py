"""One attempt at one job: its phases, from the loading of the model to the upload."""

import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from adaspa_api.report import AttentionReport, TokenCount
from adaspa_api.words import Phase, StepKind
from adaspa_jobs.job import Artifact, JobParams, Progress
from adaspa_jobs.storage import StorageUnavailable, attempt_prefix
from adaspa_jobs.store import Lease
from opentelemetry import trace

from adaspa_worker import metrics
from adaspa_worker.checkpoint import Checkpoints
from adaspa_worker.context import Context
from adaspa_worker.encode import VideoWriter, encode
from adaspa_worker.failure import NotLoaded
from adaspa_worker.lease import RETRY_SECONDS, LeaseKeeper, WorkerStopping
from adaspa_worker.preview import Previews
from adaspa_worker.recipe import write_recipe
from adaspa_worker.scratch import scratch

if TYPE_CHECKING:
    import numpy as np
    import torch

    from adaspa_worker.pipeline import Encoded, Engine

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

PICTURES = "image/webp"
"""Content type of thumbnail and spritesheet."""


@dataclass
class Attempt:
    """One attempt at one job.

    A cancel, and every other reason to stop, is heard before and after the loading of the model, between two layers of
    the text encoder, after each denoising step, before each latent frame is decoded and each frame encoded, and between
    two uploads. What cannot be interrupted: the loading, one call of the device, and the upload of one file.
    """

    context: Context
    lease: Lease
    timings: dict[str, float] = field(default_factory=dict)
    resumed_from: int | None = None
    preview_step: int | None = None
    tokens: dict[str, TokenCount] = field(default_factory=dict)
    """Of the texts, once they are encoded."""
    engine: "Engine | None" = None
    """Once it is loaded."""

    def __post_init__(self) -> None:
        context = self.context
        self.checkpoints = Checkpoints(
            context.storage, self.lease, context.checkpoint_steps, context.checkpoint_seconds
        )

    def progress(self, phase: Phase, step: int, kind: StepKind | None = None, eta: float | None = None) -> Progress:
        """Where this attempt stands."""
        return Progress(
            phase=phase,
            step=step,
            steps=self.lease.job.params.steps,
            resumed_from_step=self.resumed_from,
            step_kind=kind,
            eta_seconds=eta,
            preview_step=self.preview_step,
            **self.tokens,
        )

    def run(self, keeper: LeaseKeeper) -> "Result":
        """Raises NotLoaded, and whatever ends the job or the attempt."""
        self.keeper = keeper
        params = self.lease.job.params
        with self.phase("loading"):
            self.engine = engine = self.load(params.model)
        try:
            return self.generate(engine, params)
        except WorkerStopping:
            if snapshot := engine.snapshot():
                self.checkpoints.save(snapshot)
            raise

    def load(self, model: str) -> "Engine":
        try:
            return self.context.engine(model)
        except Exception as error:
            raise NotLoaded from error

    def reset(self) -> None:
        """Drop what the engine holds of the job."""
        if self.engine is not None:
            self.engine.reset()

    def generate(self, engine: "Engine", params: JobParams) -> "Result":
        with self.phase("encoding_prompt"), engine.checked(self.keeper.check):
            encoded = engine.encode_prompt(params)
        self.tokens = encoded.tokens
        with self.phase("denoising"):
            latents = self.denoise(engine, params, encoded)
        report = AttentionReport.model_validate(engine.report())
        metrics.observe_report(params.model, report)
        for reason in report.fell_back:
            log.warning("%s: attention fell back: %s", self.lease.job.id, reason)
        with scratch(self.context.name) as folder:
            with self.phase("decoding"):
                files = self.write_files(engine, params, latents, Path(folder))
            with self.phase("uploading"):
                artifacts = {name: self.upload(name, path) for name, path in files.items()}
        self.keeper.check()
        return Result(artifacts, report, self.timings)

    def denoise(self, engine: "Engine", params: JobParams, encoded: "Encoded") -> "torch.Tensor":
        """Denoise, from the last good checkpoint if there is one, and leave checkpoints on the way."""
        resume = self.checkpoints.load()
        if resume:
            self.resumed_from = resume["step"]
            self.keeper.report(self.progress("denoising", resume["step"]))
        reporter = StepReporter(self, params)
        previews = Previews(engine.preview, params.num_frames / params.fps)

        def after_step(done: int, kind: StepKind | None) -> None:
            reporter(done, kind)
            if done < params.steps and previews.due() and (image := previews.take()):
                self.preview_step = done
                self.keeper.report_preview(reporter.progress(done, kind), image)
            if done < params.steps and self.checkpoints.due(done) and (snapshot := engine.snapshot()):
                self.keeper.check()
                self.checkpoints.save(snapshot)

        latents = engine.denoise(params, encoded, after_step, resume)
        self.record("previews", previews.spent)
        return latents

    def write_files(
        self, engine: "Engine", params: JobParams, latents: "torch.Tensor", folder: Path
    ) -> dict[str, Path]:
        """Decode and encode; returns the files by variant."""
        files = {
            "video": folder / f"video.{params.output_format}",
            "thumbnail": folder / "thumbnail.webp",
            "spritesheet": folder / "spritesheet.webp",
        }
        writer = VideoWriter(
            files["video"],
            params.output_format,
            width=params.width,
            height=params.height,
            fps=params.fps,
            num_frames=params.num_frames,
            comment=write_recipe(params, engine.attention(params)),
        )
        frames = Decoding(engine.frames(latents, self.keeper.check), self.keeper.check)
        start = time.monotonic()
        encode(frames, writer)
        self.record("encoding", time.monotonic() - start - frames.seconds)
        writer.write_thumbnail(files["thumbnail"])
        writer.write_spritesheet(files["spritesheet"])
        return files

    def upload(self, variant: str, path: Path) -> Artifact:
        """Store a file; while storage is away, again and again for a while: the video is done but for this."""
        deadline = time.monotonic() + self.context.upload_retry_seconds
        delays = chain(RETRY_SECONDS, repeat(RETRY_SECONDS[-1]))
        while True:
            self.keeper.check()
            try:
                return self.put(variant, path)
            except StorageUnavailable as error:
                delay = next(delays)
                if time.monotonic() + delay > deadline:
                    raise
                log.warning("%s: %s not stored, trying again in %s s: %s", self.lease.job.id, variant, delay, error)
            self.keeper.wait(delay)

    def put(self, variant: str, path: Path) -> Artifact:
        video = self.lease.job.params.output_format.content_type
        content_type = video if variant == "video" else PICTURES
        key = f"{attempt_prefix(self.lease.job.id, self.lease.token)}{path.name}"
        return self.context.storage.put_file(key, path, content_type)

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Publish the phase, and time it in seconds."""
        done = self.lease.job.params.steps if name in ("decoding", "uploading") else 0
        self.keeper.report(self.progress(name, done))
        start = time.monotonic()
        with tracer.start_as_current_span(name):
            yield
        self.record(name, time.monotonic() - start)

    def record(self, phase: str, seconds: float) -> None:
        """Note the seconds of a phase; or of the previews and the encoding, which are part of one."""
        self.timings[phase] = round(seconds, 3)
        metrics.phase_seconds.labels(self.lease.job.params.model, phase).observe(seconds)


class Result(NamedTuple):
    """What a completed attempt came to."""

    artifacts: dict[str, Artifact]
    report: AttentionReport
    timings: dict[str, float]


class Decoding:
    """Iterates over frames and adds up the seconds that they take to come; before each, ``check`` may raise."""

    def __init__(self, frames: "Iterator[np.ndarray]", check: Callable[[], None]) -> None:
        self._frames, self._check, self.seconds = frames, check, 0.0

    def __iter__(self) -> "Iterator[np.ndarray]":
        return self

    def __next__(self) -> "np.ndarray":
        self._check()
        start = time.monotonic()
        try:
            return next(self._frames)
        finally:
            self.seconds += time.monotonic() - start


class StepReporter:
    """Publishes each denoising step, with an ETA for the rest of the denoising from the steps measured so far."""

    def __init__(self, attempt: Attempt, params: JobParams) -> None:
        self.attempt, self.steps, self.model = attempt, params.steps, params.model
        self._recent: deque[float] = deque(maxlen=5)
        self._last = time.monotonic()
        self._eta: float | None = None

    def __call__(self, done: int, kind: StepKind | None) -> None:
        now = time.monotonic()
        self._recent.append(now - self._last)
        metrics.step_seconds.labels(self.model, kind or "dense").observe(now - self._last)
        self._last = now
        # The median, because a search step or the first step's warm-up says little about the steps to come.
        self._eta = round((self.steps - done) * statistics.median(self._recent), 1) if done >= 2 else None
        self.attempt.keeper.report(self.progress(done, kind))

    def progress(self, done: int, kind: StepKind | None) -> Progress:
        """Where the denoising stands after its last step."""
        return self.attempt.progress("denoising", done, kind, self._eta)
