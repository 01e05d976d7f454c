"""One job, from its claim to its end, with a real Valkey, real storage and a real (tiny) pipeline."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from adaspa_api.words import JobStatus
from adaspa_jobs import tracing
from adaspa_jobs.job import Artifact, Job, JobParams
from adaspa_jobs.storage import ObjectStorage
from adaspa_jobs.store import Lease
from adaspa_worker.checkpoint import pack
from adaspa_worker.latent_rgb import PATCH, LatentRGB
from adaspa_worker.lease import WorkerStopping
from adaspa_worker.pipeline import Engine
from adaspa_worker.runner import Runner
from admitting import create
from faults import remembered
from job_bench import Bench, Spy
from opentelemetry import trace
from waiting import until


def test_a_job_completes_with_its_files_report_and_timings(bench: Bench, params: Callable[..., JobParams]) -> None:
    job = bench.run(params(steps=6))
    assert (job.status, job.attempt, job.worker, job.error) == (JobStatus.completed, 1, "worker-1", None)
    prefix = f"videos/{job.id}/{job.token}"
    assert job.token.startswith("1-")
    assert bench.files() == [f"{prefix}/spritesheet.webp", f"{prefix}/thumbnail.webp", f"{prefix}/video.mp4"]
    assert {name: a.key for name, a in job.artifacts.items()} == {
        "video": f"{prefix}/video.mp4",
        "thumbnail": f"{prefix}/thumbnail.webp",
        "spritesheet": f"{prefix}/spritesheet.webp",
    }
    assert set(job.timings) == {
        "loading",
        "encoding_prompt",
        "denoising",
        "previews",
        "decoding",
        "encoding",
        "uploading",
    }
    assert job.report is not None and 0 < job.report.density < 1
    assert job.report.attention_work is not None and job.report.density < job.report.attention_work < 1
    assert job.report.fell_back == [] and job.report.attention_calls["sparse"] > 0
    low = "bfloat16" if torch.cuda.is_available() else "float32"
    assert {name: set(types) for name, types in job.report.weights.items()} == {
        "text_encoder": {low},
        "transformer": {low, "float32"},
        "vae": {"float32"},
    }
    phases = list(dict.fromkeys(progress.phase for progress in bench.store.seen))
    assert phases == ["loading", "encoding_prompt", "denoising", "decoding", "uploading"]
    assert bench.steps() == [0, 1, 2, 3, 4, 5, 6]
    etas = [p.eta_seconds for p in bench.store.seen if p.phase == "denoising"]
    assert etas[:2] == [None, None] and None not in etas[2:] and etas[-1] == 0


def test_what_did_not_run_as_scheduled_is_in_the_record(
    bench: Bench, params: Callable[..., JobParams], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    transformer = bench.runner.engine("tiny").pipe.transformer  # type: ignore[attr-defined]
    monkeypatch.setattr(transformer.blocks[1].attn1, "forward", lambda hidden_states, *_, **__: hidden_states)
    job = bench.run(params(steps=6))
    assert job.status is JobStatus.completed and job.report is not None
    (reason,) = job.report.fell_back
    assert reason.startswith("layer 1 did not run through AdaSpa (")
    assert f"{job.id}: attention fell back: {reason}" in caplog.text


def test_the_record_says_that_sparse_attention_was_compensated(
    bench: Bench, params: Callable[..., JobParams], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = bench.runner.engine("tiny")
    changed = {"attention": {**engine.spec.attention, "compensation": "residual"}}
    monkeypatch.setattr(engine, "spec", engine.spec.model_copy(update=changed))
    report = bench.run(params(steps=6)).report
    assert report is not None and report.fell_back == []
    assert report.compensated_calls == report.attention_calls["sparse"] > 0


def test_a_cancelled_job_stops_within_one_step_and_the_next_one_completes(
    bench: Bench, params: Callable[..., JobParams]
) -> None:
    bench.store.at_step[3] = lambda lease: bench.store.request_cancel(lease.job.id)
    job = bench.run(params(steps=50))
    assert job.status is JobStatus.cancelled
    assert max(bench.steps()) <= 4
    assert bench.files() == []
    assert bench.run(params()).status is JobStatus.completed


def test_a_lease_is_kept_through_a_phase_longer_than_it(bench: Bench, params: Callable[..., JobParams]) -> None:
    engine = bench.runner.engine("tiny")
    bench.store = bench.runner.store = Spy(bench.store.client, lease_seconds=0.4)

    def slow_load(_: str) -> Engine:
        (job,) = bench.store.unfinished("open")

        def ends() -> float:
            return float(bench.store.client.zscore("adaspa:leases", job.id))  # type: ignore[arg-type]

        first = ends()
        until(lambda: ends() >= first + 1000 * bench.store.lease_seconds, "it was renewed beyond its first end")
        return engine

    bench.runner.engine = slow_load
    job = bench.run(params())
    assert (job.status, job.attempt) == (JobStatus.completed, 1)


def test_an_attempt_that_lost_its_lease_stops_and_removes_only_its_own_files(
    bench: Bench, elsewhere: Runner, params: Callable[..., JobParams]
) -> None:
    def run_elsewhere(lease: Lease) -> None:
        bench.store.lose(lease)
        elsewhere.run("tiny")

    bench.store.at_step[3] = run_elsewhere
    job = bench.run(params(steps=10))
    assert (job.status, job.attempt) == (JobStatus.completed, 2)
    assert {file.split("/")[2] for file in bench.files()} == {job.token}


def test_two_workers_with_the_same_attempt_do_not_write_to_the_same_place(
    bench: Bench, params: Callable[..., JobParams]
) -> None:
    """Redis lost the first one's claim; the second completes the job just before the first uploads."""
    job, put_file = create(bench.store, params()), bench.runner.storage.put_file
    forget = remembered(bench.store.client)
    written: dict[str, int] = {}

    def inodes() -> dict[str, int]:
        keys = [artifact.key for artifact in bench.job(job.id).artifacts.values()]
        return {key: (bench.objects / key).stat().st_ino for key in keys}

    def put_late(*arguments: Any) -> Artifact:
        if not written:
            forget()
            replace(bench.runner, name="worker-2", storage=ObjectStorage(str(bench.objects))).run("tiny")
            written.update(inodes())
        return put_file(*arguments)

    bench.runner.storage.put_file = put_late  # type: ignore[method-assign]
    bench.runner.run("tiny")
    job = bench.job(job.id)
    assert (job.status, job.attempt, job.worker) == (JobStatus.completed, 1, "worker-2")
    assert written and inodes() == written, "nothing was replaced"
    assert bench.files() == sorted(written)


def frames(bench: Bench, job: Job) -> bytes:
    """The bytes of the job's video; the encoder gives the same for the same frames."""
    return (bench.objects / job.artifacts["video"].key).read_bytes()


def test_a_stopping_worker_gives_its_job_back_and_another_one_goes_on_to_the_same_video(
    bench: Bench, params: Callable[..., JobParams]
) -> None:
    asked = params(steps=30, sparsity=0.0)
    whole = frames(bench, bench.run(asked))
    bench.store.seen.clear()
    bench.store.at_step[13] = lambda _: bench.stopping.set()
    job = create(bench.store, asked)
    with pytest.raises(WorkerStopping):
        bench.runner.run("tiny")
    assert bench.job(job.id).status is JobStatus.queued
    stopped_at = 14  # the step in which it heard of the stop
    nonce = bench.job(job.id).token.partition("-")[2]
    left = [file for file in bench.files() if job.id in file]
    assert left == [f"checkpoints/{job.id}/000001-{stopped_at:06d}-{nonce}"]
    bench.stopping.clear()
    bench.store.seen.clear()
    bench.runner.run("tiny")
    job = bench.job(job.id)
    assert (job.status, job.attempt, job.progress.resumed_from_step) == (JobStatus.completed, 2, stopped_at)
    assert [step for step in bench.steps() if step] == list(range(stopped_at, 31))
    assert frames(bench, job) == whole
    assert not any(file.startswith("checkpoints/") for file in bench.files())


@pytest.mark.parametrize("phase", ["decoding", "uploading"])
def test_a_stop_after_the_denoising_loses_none_of_it(
    bench: Bench, params: Callable[..., JobParams], phase: str
) -> None:
    bench.store.at_phase[phase] = lambda _: bench.stopping.set()
    job = create(bench.store, params())
    with pytest.raises(WorkerStopping):
        bench.runner.run("tiny")
    bench.stopping.clear()
    bench.runner.run("tiny")
    job = bench.job(job.id)
    assert (job.status, job.progress.resumed_from_step) == (JobStatus.completed, 4)


@pytest.mark.parametrize("damage", ["none", "corrupt", "foreign", "another entry"])
def test_a_job_whose_worker_was_lost_goes_on_from_its_last_good_checkpoint(
    bench: Bench,
    elsewhere: Runner,
    params: Callable[..., JobParams],
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    bench.runner.checkpoint_steps = 4
    before: list[list[str]] = []

    def run_elsewhere(lease: Lease) -> None:
        bench.store.lose(lease)
        before.append(bench.files())
        checkpoint = bench.objects / before[0][0]
        if damage == "corrupt":
            checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
        elif damage == "foreign":
            checkpoint.write_bytes(pack({"step": 8}, params(seed=99).model_dump_json()))
        elif damage == "another entry":
            elsewhere.entry = "other weights"
        bench.store.seen.clear()
        elsewhere.run("tiny")

    bench.store.at_step[10] = run_elsewhere
    job = bench.run(params(steps=12))
    assert [[file.rpartition("-")[0] for file in files] for files in before] == [
        [f"checkpoints/{job.id}/000001-000008"]
    ]
    assert (job.status, job.attempt) == (JobStatus.completed, 2)
    assert job.progress.resumed_from_step == (8 if damage == "none" else None)
    assert min(step for step in bench.steps() if step) == (8 if damage == "none" else 1)
    assert ("ignoring" in caplog.text) == (damage != "none")
    assert not any(file.startswith("checkpoints/") for file in bench.files())


def test_a_cancelled_and_a_failed_job_leave_no_checkpoint(bench: Bench, params: Callable[..., JobParams]) -> None:
    def fail(_: Lease) -> None:
        raise RuntimeError("a mistake")

    bench.runner.checkpoint_steps = 1
    for act in (lambda lease: bench.store.request_cancel(lease.job.id), fail):
        bench.store.at_step[5] = act
        assert bench.run(params(steps=20)).status in (JobStatus.cancelled, JobStatus.failed)
        assert bench.files() == []


def test_a_second_delivery_is_left_alone(bench: Bench, params: Callable[..., JobParams]) -> None:
    job = bench.run(params())
    bench.store.seen.clear()
    bench.runner.run("tiny")
    assert bench.store.seen == []
    assert bench.job(job.id).attempt == 1


def test_previews_are_published_while_the_job_runs(
    bench: Bench, params: Callable[..., JobParams], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaspa_worker.preview.EVERY_SECONDS", 0)
    monkeypatch.setattr("adaspa_worker.preview.SHARE", 1000)
    engine = bench.runner.engine("tiny")
    latent_rgb = LatentRGB(torch.randn(5, 3 * PATCH * PATCH) / 4).to(engine.device)  # type: ignore[attr-defined]
    monkeypatch.setattr(engine, "_latent_rgb", latent_rgb)
    seen: list[tuple[int, bytes] | None] = []
    bench.store.at_step[3] = lambda lease: seen.append(bench.store.preview(lease.job.id))
    job = bench.run(params(steps=5))
    assert job.status == "completed" and job.timings["previews"] > 0
    assert seen[0] is not None
    step, image = seen[0]
    assert step == 2 and image.startswith(b"RIFF")
    events = bench.store.client.xrange(f"adaspa:events:{job.id}")
    kinds = [fields[b"type"].decode() for _, fields in events]  # type: ignore[union-attr]
    assert kinds.count("preview") == 4, "the last step's is not worth it: the video comes"


def test_an_attempts_spans_belong_to_the_trace_of_its_own_request(
    bench: Bench, params: Callable[..., JobParams]
) -> None:
    with tracing.continued(f"00-{'ab' * 16}-{'cd' * 8}-01"):
        create(bench.store, params())
    seen: list[int] = []
    bench.store.at_step[2] = lambda _: seen.append(trace.get_current_span().get_span_context().trace_id)
    bench.runner.run("tiny")
    assert seen == [int("ab" * 16, 16)]
