"""Step caches of diffusers beside AdaSpa, as a catalog entry's ``cache``."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adaspa_api.words import Quality
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams
from adaspa_worker import offer
from adaspa_worker.engines.preflight import Preflight
from adaspa_worker.pipeline import Engine, load
from adaspa_worker.source import ModelUnavailable
from diffusers.hooks.hooks import BaseState, StateManager
from interrupted import Stop, stop_at
from pydantic import ValidationError
from tiny_wan import model_spec

STEPS = 8
CACHES: dict[str, dict[str, Any]] = {
    "first_block": {"threshold": 100.0},
    "mag": {"threshold": 10.0, "ratios": [1.0, 1.0]},
    "sea": {"threshold": 100.0},
    "taylor_seer": {"interval": 3},
}


def latents(engine: Engine, params: JobParams, on_step: Callable[..., None] = lambda *_: None) -> torch.Tensor:
    made = engine.denoise(params, engine.encode_prompt(params, {}), on_step)
    engine.frames(made, lambda: None)
    return made


@pytest.fixture(scope="module")
def engine(tiny_pipeline: Path) -> Engine:
    """A model whose cache each test replaces."""
    spec = model_spec(tiny_pipeline, cache={"kind": "first_block", **CACHES["first_block"]})
    return load(ModelSpec.model_validate(spec), tiny_pipeline)


@pytest.mark.parametrize("kind", CACHES)
def test_a_cache_reuses_what_it_says_and_leaves_nothing_behind(
    engine: Engine, tiny_engine: Engine, params: Callable[..., JobParams], kind: str
) -> None:
    spec = model_spec("unused", cache={"kind": kind, **CACHES[kind]})
    engine.spec = ModelSpec.model_validate(spec)  # type: ignore[attr-defined]
    job, ran = params(steps=STEPS, guidance_scale=4.0), []
    layers = [block.attn1 for block in engine.pipe.transformer.blocks]  # type: ignore[attr-defined]
    hooks = [layer.register_forward_pre_hook(lambda *_: ran.append(1)) for layer in layers]
    cached = latents(engine, job)
    for hook in hooks:
        hook.remove()
    report = engine.report()
    assert (report["step_cache"], report["forwards"], report["fell_back"]) == (kind, 2 * STEPS, [])
    assert 0 < report["reused_forwards"] < 2 * STEPS and report["reused_forwards"] % 2 == 0  # as often in each branch
    assert report["attention_calls"]["skipped"] == 2 * STEPS * len(layers) - len(ran)
    assert engine.attention(job)["step_cache"]["kind"] == kind

    with pytest.raises(Stop):
        latents(engine, params(steps=STEPS, seed=5), stop_at(6))
    engine.reset()
    # A job without a cache is as if there were none, and one with it as it was before the one that was stopped.
    exact = params(steps=STEPS, quality=Quality.exact)
    assert torch.equal(latents(engine, exact), latents(tiny_engine, exact))
    assert engine.report()["step_cache"] is None and engine.report()["reused_forwards"] == 0
    assert torch.equal(latents(engine, job), cached)
    assert not torch.equal(cached, latents(tiny_engine, job))


def test_a_job_that_goes_on_from_a_checkpoint_begins_with_an_empty_cache(
    engine: Engine, params: Callable[..., JobParams]
) -> None:
    spec = model_spec("unused", cache={"kind": "mag", "threshold": 10.0, "ratios": list(np.linspace(1.2, 0.8, STEPS))})
    engine.spec = ModelSpec.model_validate(spec)  # type: ignore[attr-defined]
    job = params(steps=STEPS)
    with pytest.raises(Stop):
        latents(engine, job, stop_at(5))
    snapshot = engine.snapshot()
    assert snapshot is not None and snapshot["step"] == 5
    engine.reset()
    made = engine.denoise(job, engine.encode_prompt(job, {}), lambda *_: None, snapshot)
    assert made.isfinite().all() and engine.report()["forwards"] == 2 * (STEPS - 5)
    engine.reset()


SMALL = {"sea": 2 * 2 * 4 * (4 * 3 * 8 * 8), "taylor_seer": 2 * 2 * 2 * (48 * 16)}
"""Bytes of what is as large as the latents: two tensors for each of two branches."""


@pytest.mark.parametrize("kind", CACHES)
def test_what_a_cache_holds_is_in_the_memory_that_is_predicted(
    engine: Engine, tiny_pipeline: Path, params: Callable[..., JobParams], kind: str
) -> None:
    spec = ModelSpec.model_validate(model_spec(tiny_pipeline, cache={"kind": kind, **CACHES[kind]}))
    engine.spec, most = spec, [0]  # type: ignore[attr-defined]
    job = params(steps=STEPS, guidance_scale=4.0)
    transformer = engine.pipe.transformer  # type: ignore[attr-defined]
    latents(engine, job, lambda *_: most.append(sum(held_by_hooks(transformer))))
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    flight, exact = Preflight(spec, tiny_pipeline, dtype), job.model_copy(update={"quality": Quality.exact})
    predicted = flight.step_cache(job, flight.forward(job).attention)
    assert predicted <= max(most) <= predicted + SMALL.get(kind, 0) + 2**8  # a few numbers
    assert (predicted > 0) == (kind != "taylor_seer")
    assert flight.step_cache(exact, flight.forward(exact).attention) == 0
    engine.reset()


def held_by_hooks(transformer: torch.nn.Module) -> list[int]:
    """Bytes of each tensor in the states of diffusers' caches."""
    found: dict[int, int] = {}

    def look(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, dict | list | tuple):
            for each in value.values() if isinstance(value, dict) else value:
                look(each)
        elif isinstance(value, BaseState | StateManager):
            look(vars(value))

    for module in transformer.modules():
        if registry := getattr(module, "_diffusers_hook", None):
            for hook in registry.hooks.values():
                look({name: value for name, value in vars(hook).items() if isinstance(value, BaseState | StateManager)})
    return list(found.values())


FIRST_BLOCK = {"kind": "first_block", "threshold": 0.1}


def test_a_scheduler_that_calls_the_transformer_twice_a_step_is_refused_before_a_worker_takes_a_job(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_pipeline, tmp_path / "heun")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": "FlowMatchHeunDiscreteScheduler"}))
    with pytest.raises(ModelUnavailable, match="cache: FlowMatchHeunDiscreteScheduler calls the transformer 2 times"):
        offer.check(ModelSpec.model_validate(model_spec(folder, cache=FIRST_BLOCK)), folder)
    other = {"scheduler": {"name": "FlowMatchEulerDiscreteScheduler"}}
    offer.check(ModelSpec.model_validate(model_spec(folder, cache=FIRST_BLOCK, **other)), folder)


@pytest.mark.parametrize(
    ("cache", "told"),
    [
        ({"kind": "first_block"}, "first_block needs threshold"),
        (
            {"kind": "taylor_seer", "interval": 3, "threshold": 1},
            "taylor_seer does not take threshold; allowed: first_share",
        ),
        ({"kind": "sea", "threshold": 1, "presets": ["exact"]}, "presets: exact always computes every step"),
        ({"kind": "tea", "threshold": 1}, "'first_block', 'mag', 'sea' or 'taylor_seer'"),
    ],
)
def test_what_a_cache_cannot_have_is_refused_in_the_catalog(cache: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ModelSpec.model_validate(model_spec("unused", cache=cache))
