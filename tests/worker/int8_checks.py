"""Weights in int8, in a process that finds torchao: test_quantization.py runs these."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adaspa_api.loras import LoraUse
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams
from adaspa_worker.engines.weights import check_moves
from adaspa_worker.offer import check
from adaspa_worker.pipeline import Engine, load
from adaspa_worker.source import ModelUnavailable
from host_memory import taken
from tiny_loras import WAN, diffusers, entry, low_ranks
from tiny_wan import denoise, model_spec


def loaded(folder: Path, **changes: Any) -> Engine:
    spec = ModelSpec.model_validate(model_spec(folder, memory={"quantization": "int8"}, **changes))
    check(spec, folder)
    return load(spec, folder)


@pytest.fixture(scope="module")
def engine(tiny_pipeline: Path) -> Engine:
    return loaded(tiny_pipeline)


def test_latents_are_within_a_hundredth_and_adaspa_runs(
    engine: Engine, tiny_engine: Engine, params: Callable[..., JobParams]
) -> None:
    found, plain = (denoise(each, params(quality="exact")) for each in (engine, tiny_engine))
    apart = (found - plain).std() / plain.std()
    assert 0 < apart < 0.01, "of their own spread"
    assert torch.equal(denoise(engine, params()), denoise(engine, params()))
    sparse = engine.denoise(params(), engine.encode_prompt(params(), {}), lambda *_: None)
    report = engine.report()
    engine.reset()
    assert sparse.isfinite().all() and report["attention_calls"]["sparse"] > 0 and report["fell_back"] == []


def test_the_report_names_int8_and_a_linear_layer_takes_a_byte_a_weight(engine: Engine, tiny_engine: Engine) -> None:
    layers = [each.pipe.transformer for each in (engine, tiny_engine)]  # type: ignore[attr-defined]
    small, whole = (each.report()["weights"]["transformer"] for each in (engine, tiny_engine))
    linear = [name for name, layer in layers[0].named_modules() if hasattr(getattr(layer, "weight", None), "qdata")]
    weights = [layers[1].get_submodule(name).weight for name in linear]
    scales = sum(weight.shape[0] for weight in weights)
    assert set(WAN) < set(linear)
    assert small.pop("int8") == sum(weight.numel() for weight in weights) + scales, (
        "torchao has a zero point for each output too"
    )
    saved = sum(weight.element_size() * (weight.numel() - weight.shape[0]) for weight in weights)
    assert sum(small.values()) == sum(whole.values()) - saved


def test_an_adapter_on_top_adds_what_it_adds_to_the_whole_weights(
    tiny_pipeline: Path, tiny_engine: Engine, params: Callable[..., JobParams], tmp_path: Path
) -> None:
    low = low_ranks(tiny_engine.pipe.transformer, WAN)  # type: ignore[attr-defined]
    own = [entry(tmp_path / "style.safetensors", diffusers(low))]
    small = loaded(tiny_pipeline, loras=own)
    plain = load(ModelSpec.model_validate(model_spec(tiny_pipeline, loras=own)), tiny_pipeline)
    with_style = params(quality="exact", loras=[LoraUse(name="style", scale=1.0)])
    found, wanted = (denoise(each, with_style) for each in (small, plain))
    alone = denoise(small, params(quality="exact"))
    assert (found - wanted).std() < 0.1 * (found - alone).std()


def test_an_adapter_with_a_bias_is_refused_by_name_as_the_model_loads(
    tiny_pipeline: Path, tiny_engine: Engine, tmp_path: Path
) -> None:
    low = low_ranks(tiny_engine.pipe.transformer, WAN[:1])  # type: ignore[attr-defined]
    tensors = diffusers(low) | {f"transformer.{WAN[0]}.lora_B.bias": torch.ones(32)}
    with pytest.raises(ModelUnavailable, match=r"loras: biased: has biases, which .* int8 .* not take; allowed: none"):
        loaded(tiny_pipeline, loras=[entry(tmp_path / "biased.safetensors", tensors)])


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what a process holds")
def test_loading_takes_host_memory_for_one_copy_of_the_weights(tiny_pipeline: Path, tmp_path: Path) -> None:
    found = taken(tiny_pipeline, tmp_path, {"quantization": "int8"})
    assert found.most < 0.6 and found.kept < 0.4, found
    assert found.kept > 0.2 or found.device == "cuda", "else nothing would have been seen"


def test_an_offload_that_cannot_move_them_is_named(engine: Engine) -> None:
    transformer = engine.pipe.transformer  # type: ignore[attr-defined]
    check_moves(transformer, torch.device("cpu"))
    with pytest.raises(ModelUnavailable, match=r"memory.cpu_offload: a weight in .* cannot be moved"):
        check_moves(transformer, torch.device("meta"))  # from which nothing comes back
