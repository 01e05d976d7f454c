"""Every model family: the clip is that of its pipeline called plainly, of the length that was asked for; what of a text
the model took is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adaspa_api.report import TokenCount
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams
from adaspa_worker.engines.base import DiffusersEngine
from adaspa_worker.engines.encodings import Encodings
from adaspa_worker.engines.hunyuan_video15 import HunyuanVideo15Engine
from adaspa_worker.engines.ltx import LTXEngine
from adaspa_worker.engines.modular import ModularEngine
from adaspa_worker.offer import check, check_frames
from adaspa_worker.pipeline import Encoded, load
from adaspa_worker.source import ModelUnavailable
from diffusers.modular_pipelines import PipelineState
from tiny_families import FAMILIES, KINDRED, save_family
from tiny_wan import model_spec

MODELS = FAMILIES | KINDRED
LENGTHS = range(1, 18)


@pytest.fixture(scope="module", params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(name, tmp_path_factory.mktemp(name))


@pytest.fixture(scope="module")
def size(name: str) -> tuple[int, int]:
    """A small one that the model can make, in pixels."""
    return (96, 64) if name.startswith("ltx") else (48, 32)


@pytest.fixture(scope="module")
def spec(name: str, folder: Path, size: tuple[int, int]) -> ModelSpec:
    """A catalog entry that leaves to the pipeline what is not the model's own."""
    entry = {
        "sizes": ["{}x{}".format(*size)],
        "negative_prompt": name != "hunyuan-video",
    }
    frames = {"frames": [7 if name == "mochi" else 9], "default_frames": 7 if name == "mochi" else 9}
    # In full precision on a GPU too: untrained weights make much of bfloat16's rounding.
    exact = {"memory": {"dtype": "float32"}, "call": dict(MODELS[name].call)}
    return ModelSpec.model_validate(model_spec(folder, **entry, **frames, steps_range=[2, 50], **exact))


@pytest.fixture(scope="module")
def engine(spec: ModelSpec, folder: Path) -> DiffusersEngine:
    check(spec, folder)
    loaded = load(spec, folder)
    assert isinstance(loaded, DiffusersEngine)
    return loaded


@pytest.fixture
def asked(spec: ModelSpec, size: tuple[int, int], params: Callable[..., JobParams]) -> Callable[..., JobParams]:
    usual = {"width": size[0], "height": size[1], "num_frames": spec.default_frames, "steps": 2, "quality": "exact"}
    return lambda **changes: params(**usual | changes)


def clip(engine: DiffusersEngine, params: JobParams) -> np.ndarray:
    """What the engine makes, uint8 [frames, height, width, 3]."""
    latents = engine.denoise(params, engine.encode_prompt(params), lambda *_: None)
    frames = np.stack(list(engine.frames(latents, lambda: None)))
    engine.reset()
    return frames


def plain_clip(engine: DiffusersEngine, folder: Path, params: JobParams) -> np.ndarray:
    """What anyone makes with the model in diffusers, without AdaSpa, in levels of 0 to 255."""
    pipe = engine.pipeline.from_pretrained(folder)  # type: ignore[attr-defined]
    if isinstance(engine, ModularEngine):
        pipe.load_components()
    pipe.to(engine.device)
    pipe.set_progress_bar_config(disable=True)
    arguments = {"guidance_scale": params.guidance_scale}
    if isinstance(engine, HunyuanVideo15Engine | ModularEngine):
        pipe.guider.guidance_scale, arguments = params.guidance_scale, {}
    if isinstance(engine, LTXEngine):
        arguments["frame_rate"] = params.fps
    made = pipe(
        prompt=params.prompt,
        negative_prompt=params.negative_prompt,
        height=params.height,
        width=params.width,
        num_frames=params.num_frames,
        num_inference_steps=params.steps,
        generator=torch.Generator().manual_seed(params.seed),
        output_type="np",
        **arguments,
        **engine.spec.call,
    )
    frames: np.ndarray = (made.videos if isinstance(engine, ModularEngine) else made.frames)[0]
    return 255 * frames


@pytest.mark.parametrize("negative_prompt", [None, "a blue square"])
def test_the_clip_is_that_of_the_pipeline_called_plainly(
    engine: DiffusersEngine, folder: Path, asked: Callable[..., JobParams], negative_prompt: str | None
) -> None:
    params = asked(negative_prompt=negative_prompt)
    frames = clip(engine, params)
    assert np.abs(frames - plain_clip(engine, folder, params)).max() < 0.6, "half a level is rounding"


def test_the_frames_of_every_length_that_is_accepted_come_out(
    name: str, engine: DiffusersEngine, spec: ModelSpec, asked: Callable[..., JobParams]
) -> None:
    if name in (*KINDRED, "wan-2.2", "wan-modular", "hunyuan-video-guided"):
        pytest.skip("another model has this VAE, and this way to count frames")
    accepted = []
    for length in LENGTHS:
        try:
            check_frames(spec.model_copy(update={"frames": [length]}), engine.limits)
        except ModelUnavailable:
            continue
        accepted.append(length)
        assert clip(engine, asked(num_frames=length, steps=engine.limits.steps, guidance_scale=1.0)).shape[0] == length
    assert len(accepted) >= 3


def test_jobs_of_one_prompt_encode_it_once(
    engine: DiffusersEngine, asked: Callable[..., JobParams], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = engine.encode_prompt(asked(prompt="a red circle moving"))
    for name, part in engine.pipe.components.items():
        if name.startswith("text_encoder"):
            monkeypatch.setattr(part, "forward", None)
    second = engine.encode_prompt(asked(prompt="a red circle moving", seed=9, steps=4))
    assert second.tokens == first.tokens
    for one, other in zip(rows(first), rows(second), strict=True):
        assert all(a is b is None or (a is not b and torch.equal(a, b)) for a, b in zip(one, other, strict=True))
    with pytest.raises(TypeError):
        engine.encode_prompt(asked(prompt="a blue circle moving"))
    engine.encodings = Encodings()
    with pytest.raises(TypeError):
        engine.encode_prompt(asked(prompt="a red circle moving"))


def test_what_had_no_room_is_told_and_had_no_effect(
    name: str, engine: DiffusersEngine, asked: Callable[..., JobParams]
) -> None:
    words = 1024 * " red"
    first, second = (engine.encode_prompt(asked(prompt=words + end)) for end in (" left", " blue"))
    told = first.tokens["prompt_tokens"]
    assert told == second.tokens["prompt_tokens"] and told.cut > 0 and told.used == told.limit
    for one, other in zip(rows(first), rows(second), strict=True):
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(one, other, strict=True))


def rows(encoded: Encoded) -> list[Any]:
    """Encoded texts, one list for each call of an encoder."""
    states = (each for each in encoded.answers if isinstance(each, PipelineState))
    return [list(state.get_by_kwargs("denoiser_input_fields").values()) for state in states] or list(encoded.answers)


def test_texts_are_counted_in_every_language(
    name: str, engine: DiffusersEngine, asked: Callable[..., JobParams]
) -> None:
    if name != "wan-bytes":
        pytest.skip("has no more than eleven words")
    told = engine.encode_prompt(asked(prompt="赤い円が動く", negative_prompt="أزرق 🔴")).tokens
    assert told == {
        "prompt_tokens": TokenCount(used=6 * 3 + 1, cut=0, limit=512),
        "negative_prompt_tokens": TokenCount(used=4 * 2 + 1 + 4 + 1, cut=0, limit=512),
    }
