"""Every model family: told step by step, stopped, resumed and previewed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adaspa import StepKind
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams
from adaspa_worker.attention import attention_config
from adaspa_worker.checkpoint import pack, unpack
from adaspa_worker.engines import hunyuan_video15
from adaspa_worker.engines.base import DiffusersEngine
from adaspa_worker.latent_rgb import PATCH, LatentRGB
from adaspa_worker.pipeline import load
from adaspa_worker.source import ModelUnavailable
from diffusers.guiders import ClassifierFreeZeroStarGuidance
from foreseen import foreseen, given_to
from interrupted import Stop, stop_at
from records import PARAMS
from tiny_families import FAMILIES, save_family
from tiny_wan import denoise, model_spec

STEPS = 6


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(family, tmp_path_factory.mktemp(family))


def spec(family: str, folder: Path, **changes: object) -> ModelSpec:
    """Its catalog entry."""
    own = FAMILIES[family]
    entry: dict[str, object] = {
        "sizes": [own.size],
        "frames": [own.frames],
        "default_frames": own.frames,
    }
    if family == "hunyuan-video":
        entry["negative_prompt"] = False
    attention = {"block_size": 16, "sparsity": 0.6, "steps": STEPS, "warmup": 2, "searches": [2, 4]}
    call = own.shorter | dict(own.call)
    return ModelSpec.model_validate(model_spec(folder, **entry, call=call, attention=attention) | changes)


@pytest.fixture(scope="module")
def engine(family: str, folder: Path) -> Iterator[DiffusersEngine]:
    loaded = load(spec(family, folder), folder)
    assert isinstance(loaded, DiffusersEngine)
    with pytest.MonkeyPatch.context() as patch:
        if family == "hunyuan-video-1.5":  # 2,000 rows of texts and picture, nearly all of them padding
            shorten(loaded.pipe, patch)
        yield loaded


def shorten(pipe: Any, patch: pytest.MonkeyPatch) -> None:
    """Have fewer rows in a pipeline of HunyuanVideo 1.5, and where its memory is reckoned."""
    for name, ours, rows in (("tokenizer_max_length", "TEXT", 16), ("vision_num_semantic_tokens", "SEEN", 4)):
        assert getattr(pipe, name) == getattr(hunyuan_video15, ours)
        patch.setattr(hunyuan_video15, ours, rows)
        setattr(pipe, name, rows)


@pytest.fixture(scope="module")
def asked(family: str) -> Callable[..., JobParams]:
    width, height = map(int, FAMILIES[family].size.split("x"))
    usual = PARAMS | {"model": "tiny", "prompt": "a red circle", "negative_prompt": "a blue square", "steps": STEPS}
    usual |= {"width": width, "height": height, "num_frames": FAMILIES[family].frames}
    return lambda **changes: JobParams.model_validate(usual | changes)


@pytest.fixture(scope="module")
def latents(engine: DiffusersEngine, asked: Callable[..., JobParams]) -> torch.Tensor:
    """Those of a job that nothing disturbs."""
    return denoise(engine, asked(quality="exact"))


def test_a_guider_that_makes_no_numbers_is_refused_by_name(tmp_path: Path) -> None:
    pipe = FAMILIES["hunyuan-video-1.5"].pipeline()
    pipe.guider = ClassifierFreeZeroStarGuidance(guidance_rescale=0.7)
    pipe.save_pretrained(tmp_path)
    with pytest.raises(ModelUnavailable, match=r"guider: a ClassifierFreeZeroStarGuidance .* allowed: 0 for one"):
        load(spec("hunyuan-video-1.5", tmp_path), tmp_path)
    pipe.guider.new(guidance_rescale=0.7, zero_init_steps=0).save_pretrained(tmp_path / "guider")
    load(spec("hunyuan-video-1.5", tmp_path), tmp_path)


def assert_foreseen(engine: DiffusersEngine, params: JobParams, given: dict[str, tuple[int, ...]]) -> None:
    """The shapes of which the job's memory is reckoned are those that the transformer was given."""
    try:
        found = foreseen(engine, params)
    except NotImplementedError:
        assert type(engine).given.__func__ is DiffusersEngine.given.__func__  # type: ignore[attr-defined]
        return
    assert found == {name: given[name] for name in found if name in given}


def test_steps_are_told_with_their_kind_and_a_stop_leaves_nothing(
    engine: DiffusersEngine, asked: Callable[..., JobParams]
) -> None:
    steps: list[tuple[int, str | None]] = []
    params = asked()
    with given_to(engine.transformers[0]) as given:
        made = engine.denoise(params, engine.encode_prompt(params), lambda done, kind: steps.append((done, kind)))
    assert_foreseen(engine, params, given)
    kinds = [kind for _, kind in steps]
    assert [done for done, _ in steps] == list(range(1, STEPS + 1))
    assert kinds[:2] == ["dense", "dense"] and "search" in kinds and "sparse" in kinds
    report = engine.report()
    for kind in ("dense", "search", "sparse"):
        assert report[f"{kind}_steps"] == kinds.count(kind)
    # The few blocks of so short a clip may cost more to search than they save.
    assert 0 < report["density"] < 1 and report["density"] < report["attention_work"] < 1.1
    assert 0 < report["recall"] <= 1
    assert report["kernels"]["block_sparse_attention"].keys() == {
        "triton" if engine.device.type == "cuda" else "reference"
    }
    assert report["fell_back"] == [] and sum(report["attention_calls"].values()) % STEPS == 0
    assert [layer["layer"] for layer in report["layers"]] == sorted({layer["layer"] for layer in report["layers"]})
    engine.reset()

    with pytest.raises(Stop):
        engine.denoise(params, engine.encode_prompt(params), stop_at(3))
    engine.reset()
    assert all(transformer.adaspa.state is None for transformer in engine.transformers)
    assert "step" not in vars(engine.pipe.scheduler) and engine.snapshot() is None
    assert torch.equal(denoise(engine, params), made)


def scheduled(engine: DiffusersEngine, params: JobParams, kinds: list[str | None]) -> list[str | None]:
    """The kinds of a job's steps by its own schedule, where ``kinds`` are those that ran."""
    schedule = attention_config(engine.spec.attention, params).resolve(params.steps).schedule
    wanted: list[str | None] = [str(schedule.kind(step)) for step in range(params.steps)]
    if len(engine.transformers) == 2:  # the second expert searches first
        for step in [step for step in range(params.steps) if kinds[step] != wanted[step]][:1]:
            wanted[step] = "search"
    return wanted


@pytest.mark.parametrize(("steps", "dense", "resumed_at"), [(4, 1, ()), (8, 2, (1, 3))])
def test_a_job_has_the_schedule_of_its_own_steps_and_goes_on_in_it_when_resumed(
    engine: DiffusersEngine, asked: Callable[..., JobParams], steps: int, dense: int, resumed_at: tuple[int, ...]
) -> None:
    """``quality`` has 10 dense steps of 50. Resumed in the warm-up, and behind the first search, where the patterns
    are lost and searched again at once."""
    params = asked(quality="quality").model_copy(update={"steps": steps})
    kept: dict[int, bytes] = {}
    kinds: list[str | None] = []

    def keep(done: int, kind: str | None) -> None:
        kinds.append(kind)
        kept[done] = pack(engine.snapshot() or {}, params.model_dump_json())

    embeddings = engine.encode_prompt(params)
    engine.denoise(params, embeddings, keep)
    assert kinds == scheduled(engine, params, kinds)
    report = engine.report()
    assert [report[f"{kind}_steps"] for kind in StepKind] == [kinds.count(kind) for kind in StepKind]
    assert kinds.count("dense") == dense
    engine.reset()
    for at in resumed_at:
        resumed: list[str | None] = []
        checkpoint = unpack(kept[at], params.model_dump_json())
        engine.denoise(params, embeddings, lambda _, kind, resumed=resumed: resumed.append(kind), checkpoint)
        again = ["search"] if kinds[at] == "sparse" else []
        assert resumed == again + kinds[at + len(again) :]
        assert engine.report()["fell_back"] == []
        engine.reset()


def test_a_resumed_denoising_comes_to_the_same_latents_and_previews_come_near_them(
    engine: DiffusersEngine,
    asked: Callable[..., JobParams],
    latents: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From its middle, and behind its last step; and neither snapshots nor previews change a bit of it."""
    weight = torch.randn(latents.shape[1] + 1, 3 * PATCH * PATCH, generator=torch.Generator().manual_seed(0)) / 4
    latent_rgb = LatentRGB(weight).to(engine.device)
    monkeypatch.setattr(engine, "_latent_rgb", latent_rgb)
    params, kept = asked(quality="exact"), {}
    shown: list[np.ndarray] = []

    def keep(done: int, _: str | None) -> None:
        kept[done] = pack(engine.snapshot() or {}, params.model_dump_json())
        frames = engine.preview()
        assert frames is not None
        shown.append(frames)

    embeddings = engine.encode_prompt(params)
    assert torch.equal(engine.denoise(params, embeddings, keep), latents)
    engine.reset()
    final = latent_rgb(latents).cpu().numpy()
    errors = [np.abs(frames.astype(int) - final).mean() for frames in shown]
    assert shown[0].shape == final.shape and errors[-1] < 1 and errors[0] > errors[-1]
    for at in (4, STEPS):
        steps: list[int] = []
        checkpoint = unpack(kept[at], params.model_dump_json())
        resumed = engine.denoise(params, embeddings, lambda done, _, steps=steps: steps.append(done), checkpoint)
        assert steps == list(range(at + 1, STEPS + 1)) and torch.equal(resumed, latents)
        engine.reset()


def test_a_map_for_previews_is_fitted_to_its_vae(
    engine: DiffusersEngine, latents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaspa_worker.latent_rgb.CLIPS", 1)
    monkeypatch.setattr("adaspa_worker.latent_rgb.SIDE", 64)
    latent_rgb = engine._fit_latent_rgb()
    assert latent_rgb(latents).shape == (latents.shape[2], *(PATCH * side for side in latents.shape[3:]), 3)


def test_tiles_bring_the_same_number_of_frames(family: str, folder: Path, asked: Callable[..., JobParams]) -> None:
    engine = load(spec(family, folder, memory={"vae_tiling": True, "cpu_offload": True, "dtype": "float32"}), folder)
    assert isinstance(engine, DiffusersEngine) and engine.pipe.vae.use_tiling
    params = asked().model_copy(update={"steps": 2})
    assert len(list(engine.frames(denoise(engine, params), lambda: None))) == params.num_frames
