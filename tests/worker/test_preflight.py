"""How much memory a job takes, known before it runs: held against what full-size models took on a GPU."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams
from adaspa_jobs.settings import get_settings
from adaspa_worker.engines.preflight import CUBLAS_BYTES, Preflight
from adaspa_worker.memory_limit import memory_limit
from adaspa_worker.pipeline import Engine, load
from tiny_wan import model_spec

from benchmarks.models.full_models import MODELS

ROWS: list[dict[str, Any]] = json.loads((Path(__file__).parents[2] / "docs" / "kernels" / "memory.json").read_text())[
    "rows"
]
PIPELINES = {"WanTransformer3DModel": "WanPipeline", "HunyuanVideoTransformer3DModel": "HunyuanVideoPipeline"}
VAES = {"AutoencoderKLWan": "wan2.1-1.3b-480p-81f", "AutoencoderKLHunyuanVideo": "hunyuan-video-13b-720p-129f"}
KEPT = {"bfloat16": {}, "float8_e4m3fn": {"storage_dtype": "float8_e4m3fn"}, "int8": {"quantization": "int8"}}
WITHIN = 0.1


@pytest.fixture(scope="module")
def flight(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Preflight]:
    """The preflight of a full-size model of which there are configurations alone, its weights kept in a type."""

    @cache
    def of(name: str, kept: str) -> Preflight:
        folder, model = tmp_path_factory.mktemp(name), MODELS[name]
        vae = next(vae for vae, used in VAES.items() if MODELS[used].transformer == model.transformer)
        with torch.device("meta"):
            parts = {"transformer": getattr(diffusers, model.transformer)(**model.config)}
            parts["vae"] = getattr(diffusers, vae)()
        for part, module in parts.items():
            (folder / part).mkdir()
            (folder / part / "config.json").write_text(module.to_json_string())
        (folder / "model_index.json").write_text(json.dumps({"_class_name": PIPELINES[model.transformer]}))
        entry = model_spec(folder, attention={"sparsity": 0.8}, memory=KEPT[kept], call={})
        return Preflight(ModelSpec.model_validate(entry), folder)

    return of


@pytest.fixture
def asked(params: Callable[..., JobParams]) -> Callable[[str], JobParams]:
    """A request of a row's size, whose guidance branch is one: a row is one forward."""

    def of(size: str) -> JobParams:
        side, frames = size.split(", ")
        width, height = map(int, side.split("x"))
        given = {"width": width, "height": height, "num_frames": int(frames.split()[0])}
        return params(**given, steps=50, guidance_scale=1.0)

    return of


def test_steps_take_what_was_measured(
    flight: Callable[[str, str], Preflight], asked: Callable[[str], JobParams]
) -> None:
    compared = set()
    for row in ROWS:
        if row["part"] == "transformer":
            preflight, params = flight(row["model"], row["kept"]), asked(row["size"])
            (weights,), forward = preflight.transformers, preflight.forward(params)
            assert weights == pytest.approx(sum(row["weights"].values()), rel=0.001)
            predicted = weights + forward.peak + preflight.caches(params, forward.attention) + CUBLAS_BYTES
            assert predicted == pytest.approx(max(row["peak_bytes"].values()), rel=WITHIN), row
            compared.add((row["model"], row["size"], row["kept"]))
    assert len(compared) == 15


def test_decoding_takes_what_was_measured(
    flight: Callable[[str, str], Preflight], asked: Callable[[str], JobParams]
) -> None:
    for row in ROWS:
        if row["part"] == "vae":
            preflight = flight(VAES[row["model"]], "bfloat16")
            predicted = sum(row["weights"].values()) + preflight.decoding(asked(row["size"]), tiled=row["tiled"])
            assert predicted == pytest.approx(row["peak_bytes"], rel=WITHIN), row


not_so_small_on_a_gpu = pytest.mark.skipif(
    torch.cuda.is_available(), reason="PyTorch takes a GPU's memory by 20 MiB, more than this model needs"
)


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Sets the operator's limit, as a worker finds it when it starts."""

    def limit(size: int) -> None:
        monkeypatch.setenv("ADASPA_WORKER_MEMORY_BYTES", str(size))
        for known in (get_settings, memory_limit):
            known.cache_clear()

    yield limit
    monkeypatch.undo()
    for known in (get_settings, memory_limit):
        known.cache_clear()
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(1.0)


@not_so_small_on_a_gpu
def test_a_clip_is_decoded_in_tiles_only_if_the_whole_would_not_fit_and_the_record_says_so(
    tiny_engine: Engine, tiny_pipeline: Path, params: Callable[..., JobParams], limited: Callable[[int], None]
) -> None:
    asked = params(width=384, height=384, num_frames=5)
    peak = Preflight(ModelSpec.model_validate(model_spec(tiny_pipeline)), tiny_pipeline, torch.float32).peak(asked)
    assert peak.tiled < peak.decoding
    latents = torch.randn(1, 4, 2, 48, 48, generator=torch.Generator().manual_seed(0))
    clips = {}
    for tiled, limit in ((False, peak.decoding), (True, peak.decoding - 1)):
        limited(limit)
        tiny_engine.encode_prompt(asked, {})
        clips[tiled] = list(tiny_engine.frames(latents, lambda: None))
        memory = tiny_engine.report()["memory"]
        assert (memory.tiled, memory.predicted_bytes) == (tiled, peak.tiled if tiled else peak.decoding)
        tiny_engine.reset()
    assert len(clips[False]) == len(clips[True]) == 5
    assert not np.array_equal(clips[False][0], clips[True][0]), "tiles are blended where they meet"


def test_with_its_blocks_in_host_memory_a_model_makes_the_same_clip_and_is_reckoned_with_two_of_them(
    tiny_engine: Engine, tiny_pipeline: Path, params: Callable[..., JobParams]
) -> None:
    spec = ModelSpec.model_validate(model_spec(tiny_pipeline, memory={"group_offload": True}))
    offloaded, asked = load(spec, tiny_pipeline), params(quality="balanced", steps=6)
    made = [
        engine.denoise(asked, engine.encode_prompt(asked, {}), lambda *_: None) for engine in (tiny_engine, offloaded)
    ]
    report = offloaded.report()
    tiny_engine.reset()
    assert torch.equal(*made) and report["fell_back"] == [] and report["sparse_steps"] > 0
    whole = Preflight(ModelSpec.model_validate(model_spec(tiny_pipeline)), tiny_pipeline, torch.float32)
    kept = Preflight(spec, tiny_pipeline, torch.float32)
    encoder = whole.weights["text_encoder"]
    assert whole.peak(asked).denoising - kept.peak(asked).denoising == encoder, "it has two blocks"
