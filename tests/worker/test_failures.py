"""A job that fails, or a worker: with which code, what is freed, and what becomes of the jobs after it."""

import logging
import os
import resource
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
import torch
from adaspa_api.words import JobStatus
from adaspa_jobs.job import JobParams
from adaspa_jobs.store import Lease, StoreUnavailable
from adaspa_worker.encode import VideoWriter
from adaspa_worker.pipeline import Engine
from adaspa_worker.scratch import clear, scratch
from adaspa_worker.source import ModelUnavailable
from admitting import create
from job_bench import Bench
from tiny_wan import FRAMES
from waiting import PATIENCE


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("shapes do not fit\nat line 3"), "generation_failed"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
    ],
)
def test_an_error_fails_its_job_with_a_code_and_the_next_one_completes(
    bench: Bench, params: Callable[..., JobParams], error: Exception, code: str
) -> None:
    def fail(_: Lease) -> None:
        raise error

    bench.store.at_step[2] = fail
    job = bench.run(params())
    assert job.status is JobStatus.failed and job.error is not None
    assert job.error.code == code and job.error.message and "\n" not in job.error.message
    assert bench.files() == []
    assert bench.run(params()).status is JobStatus.completed


class FullGpu:
    """From `fill` to `empty` this process gets no more GPU memory than it has, and nothing in that is free."""

    def __init__(self) -> None:
        self.held: list[torch.Tensor] = []

    def fill(self, _: Lease) -> None:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties().total_memory
        torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved() / total)
        for size in (2**20, 2**16, 2**9):
            with suppress(torch.OutOfMemoryError):
                while True:
                    self.held.append(torch.empty(size, dtype=torch.uint8, device="cuda"))

    def empty(self) -> None:
        self.held.clear()
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.fixture
def gpu() -> Iterator[FullGpu]:
    full = FullGpu()
    yield full
    full.empty()


@pytest.fixture
def no_logs() -> Iterator[None]:
    """pytest keeps what is logged, and with a traceback the tensors of its frames."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.usefixtures("no_logs")
def test_a_gpu_that_runs_out_of_memory_is_as_before_for_the_next_job(
    bench: Bench, params: Callable[..., JobParams], gpu: FullGpu
) -> None:
    assert bench.run(params()).status is JobStatus.completed
    before = torch.cuda.memory_allocated()
    bench.store.at_step[2] = gpu.fill
    job = bench.run(params())
    assert job.status is JobStatus.failed and job.error is not None and job.error.code == "out_of_memory"
    assert gpu.held
    gpu.empty()
    assert torch.cuda.memory_allocated() <= before
    assert bench.run(params()).status is JobStatus.completed
    assert torch.cuda.memory_allocated() <= before


def test_a_storage_that_takes_no_video_fails_the_job_with_its_own_code_after_three_attempts(
    bench: Bench, params: Callable[..., JobParams], caplog: pytest.LogCaptureFixture
) -> None:
    videos = bench.objects / "videos"
    videos.parent.mkdir(exist_ok=True)
    videos.write_text("a file where the folder should be")
    job = create(bench.store, params())
    for _ in range(3):
        bench.runner.run("tiny")
    job = bench.job(job.id)
    assert job.status is JobStatus.failed and job.error is not None
    assert (job.error.code, job.worker_errors) == ("storage_unavailable", 3)
    assert str(bench.objects) not in job.error.message, "clients are not told of the inside"
    assert str(bench.objects) in caplog.text, "the operator is"
    videos.unlink()
    assert bench.run(params()).status is JobStatus.completed


def test_latents_that_are_no_numbers_fail_the_job_with_its_own_code(
    bench: Bench, params: Callable[..., JobParams], tiny_engine: Engine
) -> None:
    block = tiny_engine.pipe.transformer.blocks[0]  # type: ignore[attr-defined]
    hook = block.register_forward_hook(lambda _, __, out: out * float("nan"))
    job = bench.run(params())
    hook.remove()
    assert job.error is not None and job.error.code == "not_finite"
    assert bench.files() == []
    assert bench.run(params()).status is JobStatus.completed


def test_a_clip_of_one_colour_is_noted_and_fails_where_it_is_to(
    bench: Bench, params: Callable[..., JobParams], tiny_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    last = tiny_engine.pipe.vae.decoder.conv_out  # type: ignore[attr-defined]
    hook = last.register_forward_hook(lambda _, __, out: out.clamp(0.3, 0.3))
    noted = bench.run(params())
    bench.runner.fail_blank = True
    failed = bench.run(params())
    hook.remove()
    assert noted.status is JobStatus.completed
    assert noted.warnings == [f"{FRAMES} of {FRAMES} frames are a single colour"]
    assert f"{noted.id}: {noted.warnings[0]}" in caplog.text
    assert failed.error is not None and (failed.error.code, failed.error.message) == ("blank_clip", noted.warnings[0])
    fine = bench.run(params())
    assert fine.status is JobStatus.completed and fine.warnings == []


def test_frames_that_are_no_numbers_fail_the_job_before_one_is_encoded(
    bench: Bench, params: Callable[..., JobParams], tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, write = [], VideoWriter.write

    def spy(writer: VideoWriter, frame: np.ndarray) -> None:
        written.append(frame)
        write(writer, frame)

    monkeypatch.setattr(VideoWriter, "write", spy)
    last = tiny_engine.pipe.vae.decoder.conv_out  # type: ignore[attr-defined]
    row = torch.tensor(5, device=tiny_engine.device)  # type: ignore[attr-defined]
    hook = last.register_forward_hook(lambda _, __, out: out.index_fill(3, row, float("nan")))
    job = bench.run(params())
    hook.remove()
    assert job.error is not None and job.error.code == "not_finite" and "frames" in job.error.message
    assert written == [] and bench.files() == []
    assert bench.run(params()).status is JobStatus.completed and written


@pytest.mark.usefixtures("no_logs")
def test_the_tensors_of_a_failed_job_are_gone_when_the_engine_is_reset(
    bench: Bench, params: Callable[..., JobParams], tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that a traceback still holds cannot be given back to the device."""
    held: list[weakref.ref[torch.Tensor]] = []
    at_reset: list[bool] = []

    def denoise(*_: object, **__: object) -> None:
        latents = torch.zeros(1000)
        held.append(weakref.ref(latents))
        raise torch.OutOfMemoryError("CUDA out of memory")

    def reset() -> None:
        at_reset.append(held[0]() is not None)

    monkeypatch.setattr(tiny_engine, "denoise", denoise)
    monkeypatch.setattr(tiny_engine, "reset", reset)
    assert bench.run(params()).error is not None
    assert at_reset == [False]


@pytest.fixture
def full_disk(bench: Bench, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No file may have more than 1000 bytes from a job's decoding to its end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    run = bench.runner.run

    def limited(model: str) -> None:
        bench.store.at_phase["decoding"] = lambda _: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        # What is printed may go to a file, which the limit would stop too.
        with capfd.disabled(), Path(os.devnull).open("w") as nowhere:
            kept = [os.dup(number) for number in (1, 2)]
            for number in (1, 2):
                os.dup2(nowhere.fileno(), number)
            try:
                run(model)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                for number, copy in zip((1, 2), kept, strict=True):
                    os.dup2(copy, number)
                    os.close(copy)

    monkeypatch.setattr(bench.runner, "run", limited)
    yield
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("full_disk")
def test_a_worker_whose_disk_is_full_leaves_its_jobs_to_others(bench: Bench, params: Callable[..., JobParams]) -> None:
    job = bench.run(params())
    assert (job.status, job.worker_errors, job.lost_attempts, job.error) == (JobStatus.queued, 1, 0, None)
    for _ in range(2):
        bench.runner.run("tiny")
    failed = bench.job(job.id)
    assert (failed.status, failed.worker_errors) == (JobStatus.failed, 3)
    assert failed.error is not None and failed.error.code == "disk_full"
    assert bench.files() == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelUnavailable("/models/of-ours: cannot be loaded"), "model_unavailable"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
    ],
)
def test_a_worker_that_cannot_load_its_model_leaves_the_jobs_to_one_that_can(
    bench: Bench, params: Callable[..., JobParams], error: Exception, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: str) -> Engine:
        raise error

    jobs = [create(bench.store, params()) for _ in range(3)]
    good = bench.runner
    bad = replace(good, engine=broken, name="worker-2", back_off_seconds=(0.3, 0.6))
    waits = []
    for _ in range(3):
        start = time.monotonic()
        bad.run("tiny")
        waits.append(time.monotonic() - start)
    assert waits[0] >= 0.3 and min(waits[1:]) >= 0.6, "it rests longer each time"
    failed = bench.job(jobs[0].id)
    assert failed.status is JobStatus.failed and failed.error is not None and failed.error.code == code
    assert str(error) not in failed.error.message, "what a model's source is, is not the client's business"
    assert str(error) in caplog.text
    bad.run("tiny")
    for _ in range(2):
        good.run("tiny")
    assert [bench.job(job.id).status for job in jobs[1:]] == [JobStatus.completed] * 2


def test_a_stopping_worker_does_not_rest(bench: Bench, params: Callable[..., JobParams]) -> None:
    def broken(_: str) -> Engine:
        bench.stopping.set()
        raise ModelUnavailable("tiny: cannot be loaded")

    bench.runner.engine, bench.runner.back_off_seconds = broken, (2 * PATIENCE,)
    start = time.monotonic()
    assert bench.run(params()).status is JobStatus.queued
    assert time.monotonic() - start < PATIENCE


def test_a_device_error_ends_the_process_and_leaves_the_job_to_another(
    bench: Bench, params: Callable[..., JobParams]
) -> None:
    def fail(_: Lease) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    bench.store.at_step[2] = fail
    job = bench.run(params())
    assert (job.status, job.worker_errors) == (JobStatus.queued, 1)
    assert bench.ended.is_set()
    replace(bench.runner, name="worker-2").run("tiny")
    assert bench.job(job.id).status is JobStatus.completed


def test_an_engine_that_cannot_be_reset_takes_no_other_job(
    bench: Bench, params: Callable[..., JobParams], tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    with monkeypatch.context() as context:
        context.setattr(tiny_engine, "reset", fail)
        assert bench.run(params()).status is JobStatus.completed
    tiny_engine.reset()
    assert bench.ended.is_set()


def test_a_claim_that_is_not_answered_costs_the_job_nothing(
    bench: Bench, params: Callable[..., JobParams], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = bench.store.client
    answered = client.evalsha

    def cut_off(*arguments: object) -> object:
        monkeypatch.undo()
        answered(*arguments)  # type: ignore[arg-type]
        raise redis.ConnectionError("cut off")

    job = create(bench.store, params())
    monkeypatch.setattr(client, "evalsha", cut_off)
    with pytest.raises(StoreUnavailable):
        bench.runner.run("tiny")
    assert bench.job(job.id).status is JobStatus.in_progress
    bench.runner.run("tiny")
    done = bench.job(job.id)
    assert (done.status, done.attempt, done.lost_attempts) == (JobStatus.completed, 2, 0)


def test_a_new_process_removes_what_the_one_before_left_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, *others = (Path(scratch(worker).name) for worker in ("worker-1", "worker-10", "worker-1-a"))
    for folder in (left, *others):
        folder.mkdir(exist_ok=True)
        (folder / "video.mp4").write_bytes(b"half a video")
    clear("worker-1")
    assert not left.exists() and all(folder.exists() for folder in others)
