"""Run one job from its claim to its end: completed, failed, cancelled, given back, or left to a later attempt.

Nothing here imports torch: the first job of a worker is claimed, and shown as loading, before that takes its seconds.
"""

import errno
import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from adaspa_service.contract import logs
from adaspa_service.contract.job import (
    TERMINAL,
    Artifact,
    AttentionReport,
    ErrorCode,
    JobError,
    JobParams,
    JobStatus,
    Phase,
    Progress,
    StepKind,
)
from adaspa_service.contract.storage import ObjectStorage, StorageUnavailable, checkpoint_prefix, video_prefix
from adaspa_service.contract.store import JobCancelled, JobStore, Lease, LeaseLost, StoreUnavailable
from opentelemetry import trace

from adaspa_worker import metrics
from adaspa_worker.checkpoint import Checkpoints
from adaspa_worker.encode import VideoWriter, encode
from adaspa_worker.lease import LeaseKeeper, WorkerStopping
from adaspa_worker.source import ModelUnavailable, first_line

if TYPE_CHECKING:
    import numpy as np
    import torch

    from adaspa_worker.pipeline import Engine

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MAX_MESSAGE = 500
"""Characters of an error's message that go into the job record."""


@dataclass
class Runner:
    """What every job of this worker shares.

    Args:
        store, storage: where records and objects live.
        engine: returns the loaded engine of a model, loading it at the first call; raises ModelUnavailable.
        name: the worker's name in the job record.
        stopping: True once the worker is shutting down.
        renew_seconds: how often the lease is renewed, well below its length.
        checkpoint_steps, checkpoint_seconds: how often a denoising is checkpointed, whichever comes first.
        upload_retry_seconds: how long an upload is tried again while storage is away.
    """

    store: JobStore
    storage: ObjectStorage
    engine: Callable[[str], "Engine"]
    name: str
    stopping: Callable[[], bool]
    renew_seconds: float
    checkpoint_steps: int | None = None
    checkpoint_seconds: float = 30.0
    upload_retry_seconds: float = 120.0

    def run(self, job_id: str) -> None:
        """Run a job if it is still to be run; a delivery of one that is done, or leased elsewhere, is left alone.

        Raises:
            WorkerStopping: the job went back to the queue; its message has to go there too.
            StoreUnavailable: the store cannot be reached; the lease runs out and a later attempt takes over.
        """
        lease = self.store.claim(job_id, self.name)
        if lease is None:
            log.info("%s: nothing to do", job_id)
            return
        model = lease.job.params.model
        with logs.bound(job=job_id, attempt=lease.attempt), metrics.busy.labels(model).track_inprogress():
            self._run(lease, lambda outcome: metrics.attempts.labels(model, outcome).inc())

    def _run(self, lease: Lease, ended: Callable[[str], None]) -> None:
        job_id = lease.job.id
        log.info("%s: attempt %d", job_id, lease.attempt)
        try:
            with LeaseKeeper(self.store, lease, self.stopping, self.renew_seconds) as keeper:
                Attempt(self, lease, keeper).run()
            ended("completed")
            log.info("%s: completed", job_id)
            self._remove_earlier_objects(lease)
        except JobCancelled:
            self._end(lease, self.store.release_cancelled)
            ended("cancelled")
            log.info("%s: cancelled", job_id)
        except LeaseLost:
            ended("lease_lost")
            log.warning("%s: attempt %d lost its lease", job_id, lease.attempt)
        except WorkerStopping:
            self._end(lease, self.store.give_back)
            ended("given_back")
            log.info("%s: given back", job_id)
            raise
        except StoreUnavailable:
            ended("store_unavailable")
            log.error("%s: attempt %d could not be ended; its lease runs out", job_id, lease.attempt)
            raise
        except Exception as error:
            job_error = describe(error)
            ended("failed")
            log.exception("%s: %s", job_id, job_error.code)
            self._end(lease, partial(self.store.fail, error=job_error))
        finally:
            self._remove_unused_objects(lease)

    def _end(self, lease: Lease, transition: Callable[[Lease], None]) -> None:
        """Make a final transition; a cancel or a lost lease that comes first wins."""
        try:
            try:
                insist(partial(transition, lease))
            except JobCancelled:
                insist(partial(self.store.release_cancelled, lease))
        except LeaseLost:
            log.warning("%s: attempt %d lost its lease at the end", lease.job.id, lease.attempt)

    def _remove_earlier_objects(self, lease: Lease) -> None:
        """Remove what attempts left whose worker was killed."""
        for attempt in range(1, lease.attempt):
            try:
                self.storage.delete_prefix(attempt_prefix(lease.job.id, attempt))
            except StorageUnavailable as error:
                log.warning("%s: objects of attempt %d may be left: %s", lease.job.id, attempt, error)

    def _remove_unused_objects(self, lease: Lease) -> None:
        """Remove what this attempt wrote, unless the record says that it is the job's result.

        The record is asked because a completion whose answer was lost on the way looks like a lost lease.
        """
        try:
            job = self.store.get(lease.job.id)
            if job is None or job.status is not JobStatus.completed or job.attempt != lease.attempt:
                self.storage.delete_prefix(attempt_prefix(lease.job.id, lease.attempt))
            if job is None or job.status in TERMINAL:
                self.storage.delete_prefix(checkpoint_prefix(lease.job.id))
        except (StoreUnavailable, StorageUnavailable) as error:
            log.warning("%s: objects of attempt %d may be left: %s", lease.job.id, lease.attempt, error)


@dataclass
class Attempt:
    """One attempt at one job."""

    runner: Runner
    lease: Lease
    keeper: LeaseKeeper
    timings: dict[str, float] = field(default_factory=dict)
    resumed_from: int | None = None

    def __post_init__(self) -> None:
        runner = self.runner
        self.checkpoints = Checkpoints(runner.storage, self.lease, runner.checkpoint_steps, runner.checkpoint_seconds)

    def progress(self, phase: Phase, step: int, kind: StepKind | None = None, eta: float | None = None) -> Progress:
        """Where this attempt stands."""
        return Progress(
            phase=phase,
            step=step,
            steps=self.lease.job.params.steps,
            resumed_from_step=self.resumed_from,
            step_kind=kind,
            eta_seconds=eta,
        )

    def run(self) -> None:
        params = self.lease.job.params
        with self.phase("loading"):
            engine = self.runner.engine(params.model)
        try:
            self.generate(engine, params)
        except WorkerStopping:
            if snapshot := engine.snapshot():
                self.checkpoints.save(snapshot)
            raise
        finally:
            engine.reset()

    def generate(self, engine: "Engine", params: JobParams) -> None:
        with self.phase("encoding_prompt"):
            embeddings = engine.encode_prompt(params)
        with self.phase("denoising"):
            latents = self.denoise(engine, params, embeddings)
        report = AttentionReport.model_validate(engine.report())
        metrics.observe_report(params.model, report)
        with TemporaryDirectory(prefix="adaspa-") as scratch:
            with self.phase("decoding"):
                files = self.write_files(engine, params, latents, Path(scratch))
            with self.phase("uploading"):
                artifacts = {name: self.upload(name, path) for name, path in files.items()}
        self.keeper.check()
        insist(partial(self.runner.store.complete, self.lease, artifacts, report, self.timings))

    def denoise(self, engine: "Engine", params: JobParams, embeddings: "dict[str, torch.Tensor]") -> "torch.Tensor":
        """Denoise, from the last good checkpoint if there is one, and leave checkpoints on the way."""
        resume = self.checkpoints.load()
        if resume:
            self.resumed_from = resume["step"]
            self.keeper.report(self.progress("denoising", resume["step"]))
        reporter = StepReporter(self, params)

        def after_step(done: int, kind: StepKind | None) -> None:
            reporter(done, kind)
            if done < params.steps and self.checkpoints.due(done) and (snapshot := engine.snapshot()):
                self.keeper.check()
                self.checkpoints.save(snapshot)

        return engine.denoise(params, embeddings, after_step, resume)

    def write_files(
        self, engine: "Engine", params: JobParams, latents: "torch.Tensor", folder: Path
    ) -> dict[str, Path]:
        """Decode and encode; returns the files by variant."""
        files = {
            "video": folder / "video.mp4",
            "thumbnail": folder / "thumbnail.webp",
            "spritesheet": folder / "spritesheet.webp",
        }
        writer = VideoWriter(
            files["video"], width=params.width, height=params.height, fps=params.fps, num_frames=params.num_frames
        )
        frames = Decoding(engine.frames(latents, self.keeper.check))
        start = time.monotonic()
        encode(frames, writer)
        self.record("encoding", time.monotonic() - start - frames.seconds)
        writer.write_thumbnail(files["thumbnail"])
        writer.write_spritesheet(files["spritesheet"])
        return files

    def upload(self, variant: str, path: Path) -> Artifact:
        """Store a file; while storage is away, again and again for a while: the video is done but for this."""
        deadline = time.monotonic() + self.runner.upload_retry_seconds
        delays = chain(RETRY_SECONDS, repeat(RETRY_SECONDS[-1]))
        while True:
            self.keeper.check()
            try:
                return self.put(path)
            except StorageUnavailable as error:
                delay = next(delays)
                if time.monotonic() + delay > deadline:
                    raise
                log.warning("%s: %s not stored, trying again in %s s: %s", self.lease.job.id, variant, delay, error)
            self.keeper.wait(delay)

    def put(self, path: Path) -> Artifact:
        content_type = "video/mp4" if path.suffix == ".mp4" else "image/webp"
        key = f"{attempt_prefix(self.lease.job.id, self.lease.attempt)}{path.name}"
        return self.runner.storage.put_file(key, path, content_type)

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
        """Note the seconds of a phase, or of the encoding, which goes on within the decoding."""
        self.timings[phase] = round(seconds, 3)
        metrics.phase_seconds.labels(self.lease.job.params.model, phase).observe(seconds)


class Decoding:
    """Iterates over frames and adds up the seconds that they take to come."""

    def __init__(self, frames: "Iterator[np.ndarray]") -> None:
        self._frames, self.seconds = frames, 0.0

    def __iter__(self) -> "Iterator[np.ndarray]":
        return self

    def __next__(self) -> "np.ndarray":
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

    def __call__(self, done: int, kind: StepKind | None) -> None:
        now = time.monotonic()
        self._recent.append(now - self._last)
        metrics.step_seconds.labels(self.model, kind or "dense").observe(now - self._last)
        self._last = now
        # The median, because a search step or the first step's warm-up says little about the steps to come.
        eta = round((self.steps - done) * statistics.median(self._recent), 1) if done >= 2 else None
        self.attempt.keeper.report(self.attempt.progress("denoising", done, kind, eta))


def insist(transition: Callable[[], None]) -> None:
    """Make a transition that ends an attempt, again for a while when the store is away: hours of work hang on it."""
    for delay in RETRY_SECONDS:
        try:
            return transition()
        except StoreUnavailable as error:
            log.warning("the store is away, trying again in %s s: %s", delay, error)
            time.sleep(delay)
    return transition()


def attempt_prefix(job_id: str, attempt: int) -> str:
    """Key prefix of the objects that an attempt writes."""
    return f"{video_prefix(job_id)}{attempt}/"


def describe(error: Exception) -> JobError:
    """The error of a failed job: a documented code, and a message for the one who asked."""
    if isinstance(error, ModelUnavailable):
        return JobError(code=ErrorCode.model_unavailable, message=str(error)[:MAX_MESSAGE])
    if isinstance(error, StorageUnavailable):
        return JobError(code=ErrorCode.storage_unavailable, message=str(error)[:MAX_MESSAGE])
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return JobError(code=ErrorCode.disk_full, message="The worker has no room left for the video's files.")
    from torch import OutOfMemoryError  # noqa: PLC0415  loaded by now, unless the worker could not load it

    from adaspa_worker.pipeline import NotFinite  # noqa: PLC0415

    if isinstance(error, NotFinite):
        return JobError(code=ErrorCode.not_finite, message=str(error))
    if isinstance(error, OutOfMemoryError | MemoryError):
        return JobError(code=ErrorCode.out_of_memory, message="The worker ran out of memory generating this video.")
    return JobError(
        code=ErrorCode.generation_failed, message=f"{type(error).__name__}: {first_line(error)}"[:MAX_MESSAGE]
    )
