"""A model whose blocks are compiled, by the real inductor: the videos and the resumes are those of the plain model."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from adaspa_api.loras import LoraUse
from adaspa_api.words import JobStatus
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import Job, JobParams
from adaspa_jobs.step_cache import StepCache
from adaspa_worker.lease import WorkerStopping
from adaspa_worker.pipeline import Engine, load
from adaspa_worker.warm_up import warm_up
from admitting import create
from diffusers import WanPipeline
from job_bench import Bench
from tiny_loras import WAN, diffusers, entry, low_ranks
from tiny_wan import model_spec
from torch.profiler import ProfilerActivity, profile

FULL_PRECISION = {"dtype": "float32"}
"""On a GPU too: in bfloat16 the compiled and the plain model round to videos that differ more than dense and sparse."""
TOLERANCE = 0.1
"""Largest mean difference of two videos, of 255: rounding, and what H.264 makes of it. Dense and sparse are 1 apart."""

CACHES: tuple[dict[str, Any], ...] = (
    {"kind": "first_block", "threshold": 100.0},
    {"kind": "mag", "threshold": 10.0, "ratios": [1.0, 1.0]},
    {"kind": "sea", "threshold": 100.0},
    {"kind": "taylor_seer", "interval": 3},
)


@pytest.fixture(scope="module")
def loras(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of different ranks, for different layers."""
    transformer = WanPipeline.from_pretrained(tiny_pipeline).transformer
    kinds = {"all": (WAN, 4), "some": (WAN[3:8], 2)}
    low = {name: low_ranks(transformer, *kind) for name, kind in kinds.items()}
    folder = tmp_path_factory.mktemp("loras")
    return [entry(folder / f"{name}.safetensors", diffusers(each)) for name, each in low.items()]


@pytest.fixture(scope="module")
def compiled_engine(tiny_pipeline: Path, loras: list[dict[str, Any]]) -> Iterator[Engine]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    own = model_spec(tiny_pipeline, compile=True, memory=FULL_PRECISION, loras=loras)
    # To find out which vectors the processor has takes the compiler as long as the kernels, and they longer with them.
    with torch._inductor.config.patch({"cpp.vec_isa_ok": False}):
        yield load(ModelSpec.model_validate(own), tiny_pipeline)
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def plain_engine(tiny_pipeline: Path, loras: list[dict[str, Any]]) -> Engine:
    own = model_spec(tiny_pipeline, memory=FULL_PRECISION, loras=loras)
    return load(ModelSpec.model_validate(own), tiny_pipeline)


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
    job = create(bench.store, asked[2])
    with pytest.raises(WorkerStopping):
        bench.runner.run("tiny")
    bench.stopping.clear()
    bench.runner.run("tiny")
    resumed = bench.job(job.id)
    assert resumed.progress.resumed_from_step == 6
    assert np.abs(video(bench, resumed) - plain[2]).mean() < TOLERANCE
    assert graphs["unique_graphs"] == 2, "neither its density nor a resume compiles anew"


def test_compiled_blocks_take_one_adapter_after_the_other(
    params: Callable[..., JobParams], compiled_engine: Engine, plain_engine: Engine
) -> None:
    """One graph with adapters beside that without, whatever their ranks and layers are."""
    graphs, counted = torch._dynamo.utils.counters["stats"], []
    row: list[dict[str, float]] = [{}, {"all": 1.0}, {"some": 0.5}, {"all": 0.3, "some": 1.0}, {}]
    for uses in row:
        named = [LoraUse(name=name, scale=scale) for name, scale in uses.items()]
        asked = params(steps=2, guidance_scale=1.0, loras=named or None)
        compiled, plain = (
            each.denoise(asked, each.encode_prompt(asked, {}), lambda *_: None)
            for each in (compiled_engine, plain_engine)
        )
        torch.testing.assert_close(compiled, plain, atol=1e-3, rtol=1e-3)
        counted.append(graphs["unique_graphs"])
    assert [count - counted[0] for count in counted] == [0, 1, 1, 1, 1]


@pytest.mark.parametrize("cache", CACHES, ids=lambda cache: cache["kind"])
def test_what_a_step_cache_does_not_skip_runs_compiled(
    params: Callable[..., JobParams], compiled_engine: Engine, plain_engine: Engine, cache: dict[str, Any]
) -> None:
    asked, found = params(steps=8, guidance_scale=4.0), []
    for each in (compiled_engine, plain_engine):
        without = each.spec  # type: ignore[attr-defined]
        each.spec = without.model_copy(update={"cache": StepCache(**cache)})  # type: ignore[attr-defined]
        given = each.encode_prompt(asked, {})
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            found.append(each.denoise(asked, given, lambda *_: None))
        each.spec = without  # type: ignore[attr-defined]
        calls = each.report()["attention_calls"]
        each.reset()
        assert calls["skipped"] > 0
        compiled = sum(event.name.startswith("Torch-Compiled Region") for event in seen.events())
        ran = sum(calls.values()) - calls["skipped"]  # attention runs once in each block
        assert compiled == (ran if each is compiled_engine else 0)
    # TaylorSeer extrapolates differences of steps, and guidance multiplies them: what rounding differs by grows.
    bound = 4e-3 if cache["kind"] == "taylor_seer" else 1e-3
    torch.testing.assert_close(*found, atol=bound, rtol=bound)


def test_a_second_start_compiles_nothing(
    tiny_pipeline: Path, loras: list[dict[str, Any]], compiled_engine: Engine
) -> None:
    spec = ModelSpec.model_validate(model_spec(tiny_pipeline, compile=True, memory=FULL_PRECISION, loras=loras))
    warm_up(compiled_engine, spec, tiny_pipeline)
    torch._dynamo.reset()
    compilations = warm_up(load(spec, tiny_pipeline), spec, tiny_pipeline)
    assert (compilations.graphs, compilations.graphs_cached) == (0, 1)
