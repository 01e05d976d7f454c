"""A worker whose videos two processes make together: the same video, and what becomes of a job when one fails."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adaspa_api.words import JobStatus
from adaspa_jobs.attempts import JobCancelled
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams
from adaspa_jobs.store import Lease
from adaspa_worker import group, offer
from adaspa_worker.checkpoint import unpack
from adaspa_worker.engines.tiles import Leading, Place
from adaspa_worker.engines.together import Together
from adaspa_worker.pipeline import Engine, load
from adaspa_worker.source import ModelUnavailable
from interrupted import interrupted
from job_bench import Bench
from tiny_wan import model_spec

Params = Callable[..., JobParams]
not_on_one_gpu = pytest.mark.skipif(torch.cuda.device_count() == 1, reason="a group takes two GPUs, or none")


class Worker:
    """A worker of a group; a process that ends takes the group with it, and the next one loads another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded: Together | None = None
        self.share()

    def share(self, **parallelism: int) -> None:
        """How the next group that it loads shares the work; by default as the worker finds best."""
        changes: dict[str, Any] = {"parallelism": parallelism} if parallelism else {}
        changes["memory"] = {"vae_tiling": True}
        self.spec = ModelSpec.model_validate(model_spec(self.folder, gpus=2, **changes))

    def engine(self, model: str = "tiny") -> Together:
        if self.loaded is None:
            loaded = load(self.spec, self.folder)
            assert isinstance(loaded, Together)
            self.loaded = loaded
        return self.loaded

    def end(self) -> None:
        if self.loaded is not None:
            self.loaded.close()
        self.loaded = None


@pytest.fixture(scope="module")
def worker(tiny_pipeline: Path) -> Iterator[Worker]:
    made = Worker(tiny_pipeline)
    yield made
    made.end()


@pytest.fixture
def grouped(bench: Bench, worker: Worker) -> Bench:
    return replace(bench, runner=replace(bench.runner, engine=worker.engine))


def makes_the_video_of_one_process(
    engine: Together, tiny_engine: Engine, asked: JobParams, parallelism: dict[str, int]
) -> None:
    encoded = tiny_engine.encode_prompt(asked, {})
    whole = tiny_engine.denoise(asked, encoded, lambda *_: None)
    alone = tiny_engine.report()
    steps: list[int] = []
    latents = engine.denoise(asked, engine.encode_prompt(asked, {}), lambda done, _: steps.append(done))
    torch.testing.assert_close(latents, whole, rtol=1e-4, atol=1e-4)
    assert steps == list(range(1, asked.steps + 1))
    together = engine.report()
    assert [together[name] for name in SAME] == [alone[name] for name in SAME]
    assert (together["parallelism"], alone["parallelism"]) == (parallelism, {})


SAME = ("sparse_steps", "fell_back")
"""Figures of the report."""


@not_on_one_gpu
def test_the_two_guidance_branches_of_a_request_run_side_by_side(
    worker: Worker, tiny_engine: Engine, params: Params
) -> None:
    asked = params(steps=6, sparsity=0.6)
    makes_the_video_of_one_process(worker.engine(), tiny_engine, asked, {"guidance": 2, "ulysses": 1})


@not_on_one_gpu
def test_the_processes_decode_a_tile_each_and_stop_with_a_job(
    worker: Worker, tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = torch.randn(1, 4, 2, 24, 34, generator=torch.Generator().manual_seed(0))
    together = worker.engine()
    vae = tiny_engine.pipe.vae  # type: ignore[attr-defined]
    monkeypatch.setattr(vae, "use_tiling", True)
    whole = list(tiny_engine.frames(latents, lambda: None))
    received: list[Place] = []
    plain = Leading.part
    monkeypatch.setattr(Leading, "part", lambda self, *call: (received.append(self._place), plain(self, *call))[1])

    def cancelled() -> None:
        if len(received) == 3:
            raise JobCancelled

    with pytest.raises(JobCancelled):
        list(together.frames(latents, cancelled))
    received.clear()
    np.testing.assert_array_equal(np.stack(list(together.frames(latents, lambda: None))), np.stack(whole))
    assert {place.tile for place in received} == {0, 1}


@not_on_one_gpu
def test_a_cancelled_job_leaves_the_group_to_the_next(grouped: Bench, worker: Worker, params: Params) -> None:
    def cancelled(lease: Lease) -> None:
        for process in worker.engine().group.processes:
            process.send_signal(signal.SIGINT)  # as Ctrl-C at a terminal, which is for the leader
        grouped.store.request_cancel(lease.job.id)

    grouped.store.at_step[2] = cancelled
    assert grouped.run(params(steps=6)).status is JobStatus.cancelled
    completed = grouped.run(params(steps=6))
    assert completed.status is JobStatus.completed
    assert not grouped.ended.is_set()


def struck(
    grouped: Bench, worker: Worker, params: Params, fault: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The id of a job that was running when the follower was struck."""
    (follower,) = worker.engine().group.processes

    def strike(_: Lease) -> None:
        os.kill(follower.pid, fault)
        monkeypatch.setattr(group, "SILENT_SECONDS", 3.0)  # not before: until here, a silence is no fault

    grouped.store.at_step[2] = strike
    job = grouped.run(params(steps=12))
    assert job.status is JobStatus.queued, "another worker may be better off"
    assert grouped.ended.is_set(), "the process goes, and a new one loads the model"
    assert follower.poll() is not None
    worker.end()
    assert group.failure() is None
    monkeypatch.undo()
    return job.id


@not_on_one_gpu
def test_a_follower_that_dies_fails_the_attempt_as_the_workers_own(
    grouped: Bench, worker: Worker, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = struck(grouped, worker, params, signal.SIGKILL, monkeypatch)
    worker.share(ulysses=2)
    grouped.runner.run("tiny")
    assert grouped.job(job).status is JobStatus.completed


@not_on_one_gpu
def test_processes_that_share_the_tokens_make_the_video_of_one_and_resume_its_snapshot(
    worker: Worker, tiny_engine: Engine, params: Params
) -> None:
    worker.share(ulysses=2)
    together = worker.engine()
    makes_the_video_of_one_process(together, tiny_engine, params(steps=6, sparsity=0.6), {"guidance": 1, "ulysses": 2})
    dense = params(steps=6, sparsity=0.0)
    encoded = tiny_engine.encode_prompt(dense, {})
    whole = tiny_engine.denoise(dense, encoded, lambda *_: None)
    resume = unpack(interrupted(tiny_engine, dense, encoded, 2), dense.model_dump_json())
    resumed = together.denoise(dense, encoded, lambda *_: None, resume)
    torch.testing.assert_close(resumed, whole, rtol=1e-4, atol=1e-4)
    together.reset()


@not_on_one_gpu
def test_a_follower_that_hangs_fails_the_attempt_as_the_workers_own(
    grouped: Bench, worker: Worker, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    struck(grouped, worker, params, signal.SIGSTOP, monkeypatch)


@not_on_one_gpu
def test_processes_of_other_versions_are_refused_before_the_model_loads(
    tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an upgrade under a running worker: what it starts from then on is the new one."""
    upgraded = group.versions()
    monkeypatch.setattr(group, "versions", lambda: upgraded | {"torch": "1.0"})
    spec = ModelSpec.model_validate(model_spec("/nowhere", gpus=2))
    different = f"torch {upgraded['torch']} and 1.0"
    with pytest.raises(ModelUnavailable, match=rf"^tiny: gpus: .* different versions \({re.escape(different)}\)"):
        Together(spec, tiny_pipeline)
    assert group.Group.current is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"gpus": 3}, "gpus: 3 is more than the model's attention has heads for; allowed: up to 2"),
        ({"gpus": 6}, "gpus: 6 is more than the model's attention has heads for; allowed: up to 4"),
        ({"gpus": 2, "compile": True}, "compile: cannot be used with several gpus; allowed: false"),
        (
            {"gpus": 2, "cache": {"kind": "first_block", "threshold": 0.1}},
            "cache: cannot be used with several gpus; allowed: null",
        ),
        (
            {"gpus": 2, "memory": {"cpu_offload": True}},
            "memory.cpu_offload: cannot be used with several gpus; allowed: false",
        ),
        (
            {"gpus": 2, "attention": {"token_order": "tile"}},
            "attention.token_order: cannot be used with several gpus; allowed: raster",
        ),
    ],
)
def test_what_several_gpus_do_not_go_with_is_said_before_the_model_loads(
    tiny_pipeline: Path, changes: dict[str, object], why: str
) -> None:
    with pytest.raises(ModelUnavailable, match=f"^catalog: model tiny: {why}$"):
        offer.check(ModelSpec.model_validate(model_spec(tiny_pipeline, **changes)), tiny_pipeline)
