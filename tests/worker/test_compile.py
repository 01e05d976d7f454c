"""A model whose blocks are compiled, by the real inductor: the videos and the resumes are those of the plain model."""

from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from adaspa_api.words import JobStatus
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import Job, JobParams
from adaspa_worker.lease import WorkerStopping
from adaspa_worker.pipeline import Engine, load
from job_bench import Bench
from tiny_wan import model_spec

FULL_PRECISION = {"dtype": "float32"}
"""On a GPU too: in bfloat16 the compiled and the plain model round to videos that differ more than dense and sparse."""
TOLERANCE = 0.1
"""Largest mean difference of two videos, of 255: rounding, and what H.264 makes of it. Dense and sparse are 1 apart."""


@pytest.fixture
def compiled_engine(tiny_pipeline: Path) -> Iterator[Engine]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield load(ModelSpec.model_validate(model_spec(tiny_pipeline, compile=True, memory=FULL_PRECISION)), tiny_pipeline)
    torch._dynamo.reset()


@pytest.fixture
def plain_engine(tiny_pipeline: Path) -> Engine:
    return load(ModelSpec.model_validate(model_spec(tiny_pipeline, memory=FULL_PRECISION)), tiny_pipeline)


def video(bench: Bench, job: Job) -> np.ndarray:
    """The frames of a completed job's file."""
    assert job.status is JobStatus.completed, job.error
    with av.open(bench.objects / job.artifacts["video"].key) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]).astype(float)


def test_a_compiled_model_makes_and_resumes_the_same_videos(
    bench: Bench, params: Callable[..., JobParams], compiled_engine: Engine, plain_engine: Engine
) -> None:
    asked = [params(steps=10), params(steps=10, num_frames=5), params(steps=10, sparsity=0.0)]
    bench.runner.engine = lambda _: plain_engine
    plain = [video(bench, bench.run(each)) for each in asked]
    bench.runner.engine = lambda _: compiled_engine
    graphs = torch._dynamo.utils.counters["stats"]
    for each, wanted, so_far in zip(asked[:2], plain[:2], (1, 2), strict=True):
        assert np.abs(video(bench, bench.run(each)) - wanted).mean() < TOLERANCE
        assert graphs["unique_graphs"] == so_far

    bench.store.seen.clear()
    bench.store.at_step[5] = lambda _: bench.stopping.set()
    job = bench.store.create(asked[2])
    with pytest.raises(WorkerStopping):
        bench.runner.run("tiny")
    bench.stopping.clear()
    bench.runner.run("tiny")
    resumed = bench.job(job.id)
    assert resumed.progress.resumed_from_step == 6
    assert np.abs(video(bench, resumed) - plain[2]).mean() < TOLERANCE
    assert graphs["unique_graphs"] == 2, "neither its density nor a resume compiles anew"
