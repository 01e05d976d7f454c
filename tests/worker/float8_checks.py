"""Linear layers that multiply in e4m3, in a process that finds torchao: test_quantization.py runs these.

PyTorch multiplies in e4m3 on a CPU, too. torchao and a worker allow it on GPUs only, which these checks let pass.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adaspa_api.loras import LoraUse
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams
from adaspa_worker.engines import linears
from adaspa_worker.engines.preflight import Preflight
from adaspa_worker.offer import check
from adaspa_worker.pipeline import Engine, load
from adaspa_worker.source import ModelUnavailable
from tiny_loras import WAN, diffusers, entry, low_ranks
from tiny_wan import denoise, model_spec

BFLOAT16 = {"dtype": "bfloat16"}
FLOAT8 = BFLOAT16 | {"quantization": "float8"}
CHECK = linears.check_device


def loaded(folder: Path, **changes: Any) -> Engine:
    spec = ModelSpec.model_validate(model_spec(folder, compile=True, **{"memory": FLOAT8} | changes))
    check(spec, folder)
    return load(spec, folder)


@pytest.fixture(scope="module", autouse=True)
def _anywhere() -> Iterator[None]:
    torch._dynamo.reset()
    with pytest.MonkeyPatch.context() as change, torch._inductor.config.patch({"cpp.vec_isa_ok": False}):
        if not torch.cuda.is_available():
            change.setattr(linears, "check_device", lambda _: None)
            change.setattr("torchao.quantization.quant_api._check_hardware_support", lambda _: None)
        yield


@pytest.fixture(scope="module")
def engine(tiny_pipeline: Path) -> Engine:
    return loaded(tiny_pipeline)


@pytest.fixture(scope="module")
def plain(tiny_pipeline: Path) -> Engine:
    return loaded(tiny_pipeline, memory=BFLOAT16)


def test_compiled_blocks_multiply_in_e4m3_and_adaspa_runs(
    engine: Engine, plain: Engine, params: Callable[..., JobParams]
) -> None:
    found, wanted = (denoise(each, params(quality="exact")).float() for each in (engine, plain))
    assert 0.001 < (found - wanted).std() / wanted.std() < 0.1, "of their own spread"
    sparse = engine.denoise(params(), engine.encode_prompt(params(), {}), lambda *_: None)
    report = engine.report()
    engine.reset()
    assert sparse.isfinite().all() and report["attention_calls"]["sparse"] > 0 and report["fell_back"] == []


def test_a_token_of_zeros_stays_one(engine: Engine) -> None:
    layers = linears.in_blocks(engine.pipe.transformer)  # type: ignore[attr-defined]
    layer = next(layer for name, layer in layers.items() if name.endswith("to_q"))
    out = layer(torch.zeros(2, layer.in_features, dtype=torch.bfloat16, device=layer.weight.device))
    assert torch.equal(out, layer.bias.expand_as(out))


def test_the_report_names_it_and_has_a_byte_for_each_weight_of_the_blocks_layers(
    engine: Engine, plain: Engine, tiny_pipeline: Path
) -> None:
    assert [each.report()["quantization"] for each in (engine, plain)] == ["float8", None]
    blocks = len(plain.pipe.transformer.blocks)  # type: ignore[attr-defined]
    assert [each.report()["rounding_layers"] for each in (engine, plain)] == [3 * blocks, 0]
    small, whole = (each.report()["weights"]["transformer"] for each in (engine, plain))
    layers = linears.in_blocks(plain.pipe.transformer)  # type: ignore[attr-defined]
    values = sum(layer.weight.numel() for layer in layers.values())
    scales = sum(layer.out_features for layer in layers.values())
    assert small["float8_e4m3fn"] == values and small["bfloat16"] == whole["bfloat16"] - 2 * values
    assert small["float32"] == whole.get("float32", 0) + 4 * scales
    assert engine.pipe.transformer.proj_out.weight.dtype == torch.bfloat16  # type: ignore[attr-defined]
    assert Preflight(engine.spec, tiny_pipeline).transformers == [sum(small.values())]  # type: ignore[attr-defined]


def test_an_adapter_on_top_adds_what_it_adds_to_the_whole_weights(
    engine: Engine, tiny_pipeline: Path, tiny_engine: Engine, params: Callable[..., JobParams], tmp_path: Path
) -> None:
    low = low_ranks(tiny_engine.pipe.transformer, WAN)  # type: ignore[attr-defined]
    own = [entry(tmp_path / "style.safetensors", diffusers(low))]
    small, whole = (loaded(tiny_pipeline, memory=memory, loras=own) for memory in (FLOAT8, BFLOAT16))
    assert set(small.report()["weights"]["transformer"]) >= {"float8_e4m3fn", "bfloat16"}
    assert small.report()["rounding_layers"] < engine.report()["rounding_layers"], "not those with an adapter"
    with_style = params(quality="exact", loras=[LoraUse(name="style", scale=1.0)])
    found, wanted = (denoise(each, with_style).float() for each in (small, whole))
    alone = denoise(small, params(quality="exact")).float()
    assert (found - wanted).std() < 0.3 * (found - alone).std()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this GPU may multiply in e4m3")
def test_what_does_not_multiply_in_e4m3_is_refused_by_name(tiny_pipeline: Path) -> None:
    with pytest.MonkeyPatch.context() as change:
        change.setattr(linears, "check_device", CHECK)
        with pytest.raises(
            ModelUnavailable, match=r"memory.quantization: float8 needs a GPU .* this is a CPU; allowed"
        ):
            loaded(tiny_pipeline)
