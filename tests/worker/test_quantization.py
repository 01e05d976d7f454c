"""Weights of a transformer that are smaller than they were trained: what they go with, and what is refused."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams
from adaspa_worker.engines import linears
from adaspa_worker.offer import check
from adaspa_worker.pipeline import Engine, load
from adaspa_worker.source import ModelUnavailable
from pydantic import ValidationError
from tiny_families import FAMILIES, save_family
from tiny_gguf import is_packed, write
from tiny_wan import model_spec

from benchmarks.models.block_models import BLOCK_MODELS
from benchmarks.models.full_models import MODELS

TORCHAO = Path(sys.prefix) / "torchao"
"""Where `make setup` puts it: each process that finds it imports it with diffusers."""


@pytest.mark.skipif(not TORCHAO.is_dir(), reason="`make setup` brings torchao")
@pytest.mark.parametrize("kind", ["int8", "float8"])
def test_weights_by_torchao(kind: str) -> None:
    checks = Path(__file__).with_name(f"{kind}_checks.py")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", checks],
        env=os.environ | {"PYTHONPATH": str(TORCHAO)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.skipif(find_spec("torchao") is not None, reason="torchao is installed")
@pytest.mark.parametrize(("kind", "compiled"), [("int8", False), ("float8", True)])
def test_what_needs_torchao_is_refused_without_it_before_a_worker_takes_a_job(
    tiny_pipeline: Path, kind: str, compiled: bool
) -> None:
    spec = ModelSpec.model_validate(model_spec(tiny_pipeline, compile=compiled, memory={"quantization": kind}))
    with pytest.raises(ModelUnavailable, match=r"tiny: memory.quantization: needs torchao, .*serve\[quantization\]"):
        check(spec, tiny_pipeline)


@pytest.mark.parametrize(
    ("memory", "changes", "message"),
    [
        ({"quantization": "int8"}, {"compile": True}, "quantization: cannot be combined with compile; allowed: null"),
        ({"quantization": "int8"}, {"gpus": 2}, "quantization: cannot be combined with several gpus; allowed: null"),
        (
            {"quantization": "int8", "storage_dtype": "float8_e4m3fn"},
            {},
            "quantization: cannot be combined with storage_dtype; allowed: one of them",
        ),
        (
            {"gguf": ["a.gguf"], "quantization": "int8"},
            {},
            "gguf: cannot be combined with quantization; allowed: one of them",
        ),
        (
            {"group_offload": True, "cpu_offload": True},
            {"compile": True},
            "group_offload: cannot be combined with cpu_offload and compile; allowed: false",
        ),
        ({"gguf": ["a.gguf"]}, {"compile": True, "gpus": 2}, "gguf: cannot be combined with compile and several gpus"),
        ({"gguf": []}, {}, "at least 1 item"),
        ({"quantization": "int4"}, {}, "Input should be 'int8' or 'float8'"),
        ({"quantization": "float8"}, {}, "quantization: float8 needs compile; allowed: null, int8, or compile true"),
        (
            {"quantization": "float8"},
            {"compile": True, "gpus": 2},
            "quantization: cannot be combined with several gpus; allowed: null",
        ),
        (
            {"quantization": "float8", "dtype": "float16"},
            {"compile": True},
            "dtype: float8 cannot be combined with float16; allowed: bfloat16",
        ),
        (
            {"quantization": "float8", "group_offload": True},
            {"compile": True},
            "group_offload: cannot be combined with quantization and compile; allowed: false",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_the_catalog(
    memory: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelSpec.model_validate(model_spec("unused", memory=memory, **changes))


@pytest.mark.parametrize(
    ("model", "stays"),
    [
        ("hunyuan-video-13b-720p-129f", {"norm1.linear", "norm1_context.linear", "norm.linear"}),
        ("minimax-h3-33b-768p-10s", {"adaln_proj.linear"}),
        ("wan2.1-14b-720p-81f", set()),
    ],
)
def test_of_a_block_the_modulation_alone_stays_as_it_is(model: str, stays: set[str]) -> None:
    transformer = (MODELS | BLOCK_MODELS)[model].few_blocks(1).build(torch.device("meta"), torch.bfloat16)
    chosen = set(map(id, linears.in_blocks(transformer).values()))
    assert stays == {
        name
        for block in linears.blocks_of(transformer)
        for name, layer in block.named_modules()
        if isinstance(layer, torch.nn.Linear) and id(layer) not in chosen
    }
    assert len(chosen) < sum(isinstance(layer, torch.nn.Linear) for layer in transformer.modules()) - len(stays)


@pytest.fixture(scope="module")
def from_gguf(tiny_pipeline: Path, tiny_engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Engine]:
    """Load the tiny model with its transformer's weights in a GGUF file."""

    def loaded(**changes: str) -> Engine:
        file = write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_engine.pipe.transformer, **changes)
        spec = ModelSpec.model_validate(model_spec(tiny_pipeline, memory={"gguf": [str(file)]}))
        check(spec, tiny_pipeline)
        return load(spec, tiny_pipeline)

    return loaded


def test_a_transformer_from_a_gguf_file_runs_with_adaspa_and_makes_nearly_the_same(
    from_gguf: Callable[..., Engine], tiny_engine: Engine, params: Callable[..., JobParams]
) -> None:
    engine, asked = from_gguf(), params(quality="exact")
    found, plain = (
        each.denoise(asked, each.encode_prompt(asked, {}), lambda *_: None) for each in (engine, tiny_engine)
    )
    assert 0 < (found - plain).std() < 0.02 * plain.std()
    engine.denoise(params(), engine.encode_prompt(params(), {}), lambda *_: None)
    report = engine.report()
    matrices = [
        weight.numel()
        for name, weight in tiny_engine.pipe.transformer.named_parameters()  # type: ignore[attr-defined]
        if name.startswith("blocks.") and name.endswith(".weight") and weight.ndim == 2
    ]
    assert report["weights"]["transformer"]["Q8_0"] == sum(matrices) * 34 // 32, "32 values are 34 bytes"
    assert report["attention_calls"]["sparse"] > 0 and report["fell_back"] == []
    for each in (engine, tiny_engine):
        each.reset()


@pytest.mark.parametrize("family", ["hunyuan-video", "ltx", "mochi"])
def test_files_with_diffusers_names_are_those_of_other_families(
    family: str, params: Callable[..., JobParams], tmp_path: Path
) -> None:
    folder, own = save_family(family, tmp_path / "model"), FAMILIES[family]
    lengths = {"frames": [own.frames], "default_frames": own.frames, "negative_prompt": False, "steps_range": [2, 50]}
    usual = lengths | {"sizes": [own.size], "call": own.shorter | dict(own.call)}
    width, height = map(int, own.size.split("x"))
    asked = params(width=width, height=height, num_frames=own.frames, quality="exact")
    plain = load(ModelSpec.model_validate(model_spec(folder, **usual)), folder)
    transformer = plain.pipe.transformer  # type: ignore[attr-defined]
    file = write(tmp_path / "tiny.gguf", transformer, name_of=str)
    spec = ModelSpec.model_validate(model_spec(folder, memory={"gguf": [str(file)]}, **usual))
    check(spec, folder)
    packed = load(spec, folder)
    found, wanted = (each.denoise(asked, each.encode_prompt(asked, {}), lambda *_: None) for each in (packed, plain))
    assert 0 < (found - wanted).std() < 0.05 * wanted.std()
    matrices = [w.numel() for name, w in transformer.named_parameters() if is_packed(name, tuple(w.shape))]
    assert packed.report()["weights"]["transformer"]["Q8_0"] == sum(matrices) * 34 // 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"without": "blocks.1.ffn.0.bias"}, r"lacks weights of the model's .* \(blocks.1.ffn.net.0.proj.bias\)"),
        ({"added": "img_emb.proj.0.bias"}, r"has weights unknown to the model's .* \(condition_embedder.image_emb"),
    ],
)
def test_a_gguf_file_of_another_transformer_is_refused(
    from_gguf: Callable[..., Engine], changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ModelUnavailable, match=message):
        from_gguf(**changes)


def test_gguf_files_that_cannot_be_meant_are_refused_before_a_worker_takes_a_job(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"{}")
    missing = str(tmp_path / "missing.gguf")
    for files, message in (
        ([missing], "missing.gguf: No such file or directory"),
        ([str(other)], "other.gguf: is not a GGUF file"),
        ([missing, missing], "names 2 files; allowed: 1"),
    ):
        spec = ModelSpec.model_validate(model_spec(tiny_pipeline, memory={"gguf": files}))
        with pytest.raises(ModelUnavailable, match=f"tiny: memory.gguf: .*{message}"):
            check(spec, tiny_pipeline)
