"""How much memory a job takes, known before it runs: held against what full-size models took on a GPU."""

import json
from collections.abc import Callable, Iterator
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from adaspa_api.loras import LoraUse
from adaspa_jobs.catalog import Lora, ModelSpec
from adaspa_jobs.job import JobParams
from adaspa_jobs.settings import get_settings
from adaspa_jobs.step_cache import StepCache
from adaspa_worker.engines import preflight, step_cache
from adaspa_worker.engines.memory import Memory
from adaspa_worker.engines.preflight import CUBLAS_BYTES, Preflight
from adaspa_worker.live_bytes import measured
from adaspa_worker.loras.keys import Sizes
from adaspa_worker.loras.slots import Loras, sizes_of
from adaspa_worker.memory_limit import memory_limit
from adaspa_worker.pipeline import Engine, load
from adaspa_worker.room import fitting
from tiny_loras import WAN, entry, low_ranks
from tiny_loras import diffusers as as_diffusers
from tiny_wan import model_spec

from benchmarks.models import adapters as adapters_bench
from benchmarks.models.memory_models import CACHES, TRANSFORMERS
from benchmarks.models.parallel_parts import PARTS

KERNELS = Path(__file__).parents[2] / "docs" / "kernels"
ROWS, TOGETHER_ROWS, ADAPTER_ROWS = (
    json.loads((KERNELS / f"{name}.json").read_text())["rows"] for name in ("memory", "parallel", "adapters")
)
OFFLOADED = {path.stem: json.loads(path.read_text()) for path in KERNELS.glob("offload*.json")}
PIPELINES = {
    "WanTransformer3DModel": ("WanPipeline", "AutoencoderKLWan"),
    "HunyuanVideoTransformer3DModel": ("HunyuanVideoPipeline", "AutoencoderKLHunyuanVideo"),
    "HunyuanVideo15Transformer3DModel": ("HunyuanVideo15Pipeline", "AutoencoderKLHunyuanVideo15"),
    "MochiTransformer3DModel": ("MochiPipeline", "AutoencoderKLMochi"),
    "CogVideoXTransformer3DModel": ("CogVideoXPipeline", "AutoencoderKLCogVideoX"),
    "LTXVideoTransformer3DModel": ("LTXPipeline", "AutoencoderKLLTXVideo"),
    "MiniMaxH3Transformer3DModel": ("MiniMaxH3ModularPipeline", "AutoencoderKLMiniMaxH3"),
}
MEASURED = {name: each.model for name, each in TRANSFORMERS.items()}
TOGETHER = {name: part.model for name, part in PARTS.items()}
"""Models measured on two GPUs."""
SIZES = {
    "hunyuan-video-13b-720p-129f": "1280x720, 129 frames",
    "wan2.1-14b-720p-81f": "1280x720, 81 frames",
    "minimax-h3-33b-768p-10s": "1344x768, 243 frames",
}
KEPT: dict[str, dict[str, Any]] = {
    "bfloat16": {},
    "float8_e4m3fn": {"storage_dtype": "float8_e4m3fn"},
    "int8": {"quantization": "int8"},
    "in groups": {"group_offload": True},
}
WITHIN = 0.1


@pytest.fixture(scope="module")
def flight(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Preflight]:
    """The preflight of a full-size model of which there are configurations alone, its weights kept in a type."""

    @cache
    def of(name: str, kept: str = "bfloat16", shared: str = "") -> Preflight:
        folder, model = tmp_path_factory.mktemp(name), (MEASURED | TOGETHER)[name]
        pipeline, vae = PIPELINES[model.transformer]
        with torch.device("meta"):
            parts = {"transformer": getattr(diffusers, model.transformer)(**model.config)}
            parts["vae"] = getattr(diffusers, vae)()
        for part, module in parts.items():
            (folder / part).mkdir()
            (folder / part / "config.json").write_text(module.to_json_string())
        index = "modular_model_index.json" if "Modular" in pipeline else "model_index.json"
        (folder / index).write_text(json.dumps({"_class_name": pipeline}))
        gpus = {"gpus": 2, "parallelism": {shared: 2}} if shared else {}
        entry = model_spec(folder, attention={"sparsity": 0.8}, memory=KEPT[kept], call={}, **gpus)
        return Preflight(ModelSpec.model_validate(entry), folder)

    return of


@pytest.fixture
def asked(params: Callable[..., JobParams]) -> Callable[..., JobParams]:
    """A request of a row's size; of one guidance branch unless more is said."""

    def of(size: str, guidance: float = 1.0) -> JobParams:
        side, frames = size.split(", ")
        width, height = map(int, side.split("x"))
        given = {"width": width, "height": height, "num_frames": int(frames.split()[0])}
        return params(**given, steps=50, guidance_scale=guidance)

    return of


def test_steps_take_what_was_measured(flight: Callable[..., Preflight], asked: Callable[..., JobParams]) -> None:
    compared = set()
    for row in ROWS:
        if row["part"] == "transformer":
            preflight, params = flight(row["model"], row["kept"]), asked(row["size"], float(row.get("samples", 1)))
            (weights,), forward = preflight.transformers, preflight.forward(params)
            assert weights == pytest.approx(sum(row["weights"].values()), rel=0.001)
            predicted = weights + forward.peak + preflight.caches(params, forward.attention) + CUBLAS_BYTES
            assert predicted == pytest.approx(max(row["peak_bytes"].values()), rel=WITHIN), row
            compared.add((row["model"], row["size"], row["kept"]))
    assert len(compared) == 27


def test_residuals_count_as_a_cache(flight: Callable[..., Preflight], asked: Callable[..., JobParams]) -> None:
    """The mean of each block of queries, in the transformer's type, of all layers and both guidance branches."""
    name = "wan2.1-14b-720p-81f"
    plain, params = flight(name), asked(SIZES[name], 5.0)
    attention = {"sparsity": 0.8, "compensation": "residual"}
    compensated = Preflight(plain.spec.model_copy(update={"attention": attention}), plain.folder)
    calls = plain.forward(params).attention
    more = compensated.caches(params, calls) - plain.caches(params, calls)
    assert more == 40 * 2 * 40 * -(-75_600 // 64) * 128 * 2


@pytest.mark.parametrize("name", OFFLOADED)
def test_a_job_with_its_blocks_in_host_memory_takes_what_was_measured(
    flight: Callable[..., Preflight], asked: Callable[..., JobParams], name: str
) -> None:
    """A whole job, in steps of all kinds, its clip decoded in tiles and as a whole."""
    result = OFFLOADED[name]
    peak = flight(result["model"], "in groups").peak(asked(result["size"], 5.0))
    steps, decoded = ([row for row in result["rows"] if row["part"] == part] for part in ("step", "decode"))
    assert peak.denoising == pytest.approx(max(row["peak_bytes"] for row in steps), rel=WITHIN)
    assert [row["tiled"] for row in decoded] == [True, False]
    for row in decoded:
        predicted = peak.tiled if row["tiled"] else peak.decoding
        if predicted < 0.9 * result["limit_bytes"]:  # nearer to it, convolutions make do with less
            assert predicted == pytest.approx(row["peak_bytes"], rel=WITHIN), row
        assert row["peak_bytes"] < (1 + WITHIN) * predicted


def test_decoding_takes_what_was_measured(flight: Callable[..., Preflight], asked: Callable[..., JobParams]) -> None:
    users = {PIPELINES[model.transformer][1]: name for name, model in MEASURED.items()}
    for row in ROWS:
        if row["part"] == "vae":
            preflight = flight(users[row["model"]])
            predicted = sum(row["weights"].values()) + preflight.decoding(asked(row["size"]), tiled=row["tiled"])
            assert predicted == pytest.approx(row["peak_bytes"], rel=WITHIN), row


def test_step_caches_hold_what_was_measured(flight: Callable[..., Preflight], asked: Callable[..., JobParams]) -> None:
    """Beside a forward without one, of a model with few blocks, whose states are as large as those of all."""
    rows = {row["cache"]: row for row in ROWS if row["part"] == "step_cache"}
    plain = rows.pop(None)
    assert set(rows) == set(CACHES) == set(step_cache.HELD)
    for kind, row in rows.items():
        served = copy(flight(row["model"]))
        cache = StepCache.model_validate({"kind": kind, **CACHES[kind]})
        served.spec = served.spec.model_copy(update={"cache": cache})
        params = asked(row["size"], 5.0)
        held = served.step_cache(params, served.forward(params).attention)
        assert plain["peak_bytes"] + held == pytest.approx(row["peak_bytes"], rel=WITHIN / 2), kind


def test_adapters_take_what_was_measured(
    flight: Callable[..., Preflight], asked: Callable[..., JobParams], tmp_path: Path
) -> None:
    """Above a forward without them, as files of their sizes that have nothing but holes behind their headers."""
    plain = flight(adapters_bench.MODEL)
    sizes = {name: size for name, size in sizes_of(plain.build(plain.config)).items() if name.startswith("blocks.")}
    loras = [hollow(tmp_path / f"{name}.safetensors", rank, sizes) for name, rank in adapters_bench.RANKS.items()]
    spec = plain.spec.model_copy(update={"loras": [Lora.model_validate(lora) for lora in loras]})
    served, compared = Preflight(spec, plain.folder), set()
    for row in ADAPTER_ROWS:
        if row["blocks"] == "plain" and (names := adapters_bench.WALK.get(row["adapters"])) is not None:
            job = asked(adapters_bench.SIZE).model_copy(update={"loras": [LoraUse(name=n, scale=1.0) for n in names]})
            added = (
                served.adapters(job)
                + served.forward(job).peak
                - plain.forward(job.model_copy(update={"loras": None})).peak
            )
            first = next(row for row in ADAPTER_ROWS if row["adapters"] == "before any")
            assert added == pytest.approx(row["peak_bytes"] - first["peak_bytes"], rel=WITHIN, abs=2**25), row
            compared.add(row["adapters"])
    assert compared == set(adapters_bench.WALK)


def hollow(file: Path, rank: int, sizes: Sizes) -> dict[str, Any]:
    """Write an adapter's file that takes no room on the disk; its entry of a catalog."""
    header: dict[str, Any] = {}
    end = 0
    for layer, (inputs, outputs) in sizes.items():
        for part, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
            begin, end = end, end + 2 * shape[0] * shape[1]
            name = f"transformer.{layer}.lora_{part}.weight"
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with file.open("wb") as content:
        content.write(len(text).to_bytes(8, "little") + text)
        content.truncate(content.tell() + end)
    return {"name": file.stem, "source": str(file), "sha256": 64 * "0"}


not_so_small_on_a_gpu = pytest.mark.skipif(
    torch.cuda.is_available(), reason="PyTorch takes a GPU's memory by 20 MiB, more than this model needs"
)


def test_each_of_two_gpus_takes_what_was_measured(
    flight: Callable[..., Preflight], asked: Callable[..., JobParams]
) -> None:
    """Few blocks were measured, above their weights: with those of the whole model it is what the model takes."""
    most: dict[tuple[str, str], int] = {}
    for row in TOGETHER_ROWS:
        if peak := row.get("peak_bytes"):
            key = (row["model"], "" if row["mode"] == "one" else row["mode"])
            most[key] = max(peak, most.get(key, 0))
    assert {mode for _, mode in most} == {"", "ulysses", "guidance"}
    for (name, mode), peak in most.items():
        preflight, params = flight(name, shared=mode), asked(SIZES[name], 5.0)
        (weights,), taken = preflight.transformers, preflight.activations(preflight.forward(params))
        assert taken > 0.9 * peak, (name, mode)
        assert weights + taken == pytest.approx(weights + peak, rel=WITHIN), (name, mode)


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


@pytest.fixture(scope="module")
def adapters(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of different ranks, for different layers."""
    transformer = diffusers.WanTransformer3DModel.from_pretrained(tiny_pipeline / "transformer")
    folder, kinds = tmp_path_factory.mktemp("loras"), {"all": (WAN, 8), "some": (WAN[3:8], 2), "few": (WAN[:2], 1)}
    return [
        entry(folder / f"{name}.safetensors", as_diffusers(low_ranks(transformer, *kind)))
        for name, kind in kinds.items()
    ]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_jobs_adapters_count_as_what_they_are_on_the_gpu(
    tiny_pipeline: Path, adapters: list[dict[str, Any]], params: Callable[..., JobParams], *, compiled: bool
) -> None:
    """Compiled blocks, which are not run here, have room for the two largest."""
    spec = ModelSpec.model_validate(model_spec(tiny_pipeline, loras=adapters, max_loras=2, compile=compiled))
    flight, pipe = Preflight(spec, tiny_pipeline, torch.float32), diffusers.WanPipeline.from_pretrained(tiny_pipeline)
    loras = Loras(spec, diffusers.WanPipeline, [pipe.transformer])
    for names in (["all", "few"], ["some"], []):
        job = params(loras=[LoraUse(name=name, scale=0.5) for name in names] or None)
        loras.use(job.loras or [])
        held = {name: weight.nbytes for name, weight in pipe.transformer.named_parameters() if "lora" in name}
        assert flight.adapters(job) == sum(held.values()) and (held or not names)
    job = params(loras=[LoraUse(name="all", scale=0.5)])
    assert flight.forward(job).peak > flight.forward(params()).peak, "their own products are beside the layers'"


def test_what_fits_is_reckoned_with_the_largest_adapters_of_a_request(
    tiny_pipeline: Path,
    adapters: list[dict[str, Any]],
    params: Callable[..., JobParams],
    limited: Callable[[int], None],
) -> None:
    memory = {"vae_tiling": True, "dtype": "float32"}
    spec = ModelSpec.model_validate(model_spec(tiny_pipeline, loras=adapters, max_loras=2, memory=memory))
    flight, most = Preflight(spec, tiny_pipeline, torch.float32), max(spec.frames)
    heaviest = flight.loras.heaviest() if flight.loras is not None else []
    assert {use.name for use in heaviest} == {"all", "some"}
    limit = flight.least(params(num_frames=most, loras=heaviest))
    assert flight.least(params(num_frames=most)) < limit
    found = {limit: most, limit - 1: min(spec.frames)}
    for bytes_, frames in found.items():
        assert fitting(spec, tiny_pipeline, bytes_).frames["exact"][spec.sizes[0]] == frames


def test_a_worker_reckons_what_fits_and_its_jobs_with_one_trace_of_each_size(
    tiny_pipeline: Path,
    params: Callable[..., JobParams],
    limited: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traced: list[object] = []

    def noted(run: Any, there: Any) -> Any:
        traced.append(run.func)
        return measured(run, there)

    monkeypatch.setattr(preflight, "measured", noted)
    spec = ModelSpec.model_validate(model_spec(tiny_pipeline, memory={"vae_tiling": True}))
    limited(2**40)
    fitting(spec, tiny_pipeline, 2**40)
    sizes = len(traced)
    memory = Memory(spec, tiny_pipeline, torch.device("cpu"))
    for frames in spec.frames:
        memory.begin(params(num_frames=frames))
        assert memory.report().predicted_bytes is not None
    assert len(traced) == sizes > 0
