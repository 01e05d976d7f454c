"""Modular pipelines: a clip and its sound as diffusers makes them, with all that jobs have."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from adaspa_api.words import JobStatus, Role
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import Input, JobParams
from adaspa_worker.checkpoint import unpack
from adaspa_worker.engines.minimax_h3 import ImageProcessor, MiniMaxH3Engine
from adaspa_worker.engines.modular import ModularEngine
from adaspa_worker.latent_rgb import PATCH, LatentRGB
from adaspa_worker.offer import check
from adaspa_worker.pipeline import load
from adaspa_worker.recipe import read_recipe
from adaspa_worker.source import ModelUnavailable, check_folder
from clips import sound_of
from diffusers import ModularPipeline
from drawn import corners, encoded
from foreseen import Shapes, foreseen, given_to
from interrupted import interrupted
from job_bench import Bench
from PIL.Image import Image
from tiny_families import MODULAR, save_family
from tiny_wan import model_spec

WIDTH, HEIGHT, FRAMES, FPS = 96, 64, 124, 24
NONE: Mapping[Role, Image] = {}
FIRST = {Role.first: corners(WIDTH, HEIGHT)}
BOTH = FIRST | {Role.last: corners(WIDTH, HEIGHT).rotate(180)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("minimax-h3", tmp_path_factory.mktemp("minimax-h3"))


def spec(folder: Path, **changes: object) -> ModelSpec:
    own = MODULAR["minimax-h3"]
    entry = {"sizes": [own.size], "frames": [own.frames], "default_frames": own.frames, **own.entry}
    attention = {"block_size": 16, "sparsity": 0.6, "steps": 6, "warmup": 2, "searches": [2, 4]}
    return ModelSpec.model_validate(model_spec(folder, **entry, attention=attention, call={}) | changes)


@pytest.fixture(scope="module")
def engine(folder: Path) -> ModularEngine:
    entry = spec(folder, memory={"dtype": "float32"})
    check_folder(folder)
    check(entry, folder)
    loaded = load(entry, folder)
    assert isinstance(loaded, MiniMaxH3Engine)
    return loaded


@pytest.fixture
def asked(params: Callable[..., JobParams]) -> Callable[..., JobParams]:
    usual = {"width": WIDTH, "height": HEIGHT, "num_frames": FRAMES, "fps": FPS, "steps": 3, "quality": "exact"}
    return lambda **changes: params(**usual | changes)


def plain(folder: Path, params: JobParams, images: Mapping[Role, Image]) -> tuple[np.ndarray, np.ndarray]:
    """What anyone's pipeline makes of it in diffusers: frames in [0, 1], and the sound [channels, samples]."""
    pipe = ModularPipeline.from_pretrained(folder)
    pipe.load_components([name for name in pipe.pretrained_component_names if name != "processor"])
    pipe.register_components(processor=ImageProcessor.from_pretrained(folder / "processor"))
    names = {Role.first: "image", Role.last: "last_image"}
    made = pipe(
        prompt=params.prompt,
        height=params.height,
        width=params.width,
        num_frames=params.num_frames,
        num_inference_steps=params.steps + 1,  # noise levels, of which the last is none
        generator=torch.Generator().manual_seed(params.seed),
        output_type="np",
        **{names[role]: image for role, image in images.items()},
    )
    return made.videos[0], made.audio[0].numpy()


@pytest.mark.parametrize("images", [NONE, BOTH], ids=["text", "images"])
def test_clip_and_sound_are_those_of_the_pipeline_called_plainly(
    engine: ModularEngine, folder: Path, asked: Callable[..., JobParams], images: Mapping[Role, Image]
) -> None:
    params = asked()
    with given_to(engine.transformers[0]) as given:
        latents = engine.denoise(params, engine.encode_prompt(params, images), lambda *_: None)
    assert_foreseen(foreseen(engine, params), given, images)
    clip, sound = np.stack(list(engine.frames(latents, lambda: None))), engine.sound(params)
    engine.reset()
    frames, waveform = plain(folder, params, images)
    assert clip.shape == (FRAMES, HEIGHT, WIDTH, 3) and np.abs(clip - frames * 255).max() <= 2
    assert sound is not None and sound.rate == 32_000
    np.testing.assert_allclose(sound.samples, waveform.clip(-1, 1), atol=1e-5)
    assert np.ptp(waveform) > 0 and sound.samples.shape[1] >= round(FRAMES * 32_000 / FPS) - 400


def assert_foreseen(found: Shapes, given: Shapes, images: Mapping[Role, Image]) -> None:
    """The memory of a job is reckoned of the most images that the catalog's tasks allow, and of a long prompt."""
    assert set(found) == set(given)
    if images:
        exact = ("hidden_states", "audio_hidden_states", "video_indices", "audio_indices")
        assert {name: found[name] for name in exact} == {name: given[name] for name in exact}
    assert all(a >= b for name in found for a, b in zip(found[name], given[name], strict=True))


def test_sparse_steps_a_stop_a_resumption_and_previews(
    engine: ModularEngine,
    asked: Callable[..., JobParams],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    weight = torch.randn(5, 3 * PATCH * PATCH, generator=torch.Generator().manual_seed(0)) / 4
    latent_rgb = LatentRGB(weight).to(engine.device)
    monkeypatch.setattr(engine, "_latent_rgb", latent_rgb)
    params = asked(steps=6, quality=None)
    kinds: list[str | None] = []
    engine.denoise(params, engine.encode_prompt(params, FIRST), lambda _, kind: kinds.append(kind))
    assert kinds == ["dense", "dense", "search", "sparse", "search", "sparse"] and engine.report()["fell_back"] == []
    engine.reset()

    params, previews = asked(), []
    encoded_before = engine.encode_prompt(params, FIRST)
    whole = engine.denoise(params, encoded_before, lambda *_: previews.append(engine.preview()))
    sound = engine.sound(params)
    some = np.linspace(0, whole.shape[2] - 1, len(previews[-1])).round().astype(int)
    errors = [np.abs(each - latent_rgb(whole).cpu().numpy()[some].astype(int)).mean() for each in previews]
    assert errors[-1] < 1 < errors[0]
    engine.reset()
    with caplog.at_level(logging.DEBUG):
        checkpoint = interrupted(engine, params, encoded_before, 2)
    assert "Error in block" not in caplog.text
    assert all("step" not in vars(getattr(engine.pipe, name)) for name in engine.schedulers)
    steps: list[int] = []
    resume = unpack(checkpoint, params.model_dump_json())
    again = engine.denoise(params, engine.encode_prompt(params, FIRST), lambda done, _: steps.append(done), resume)
    heard = engine.sound(params)
    assert steps == [3] and torch.equal(again, whole)
    assert sound is not None and heard is not None and np.array_equal(heard.samples, sound.samples)
    engine.reset()


@pytest.fixture
def bench(bench: Bench, engine: ModularEngine) -> Bench:
    return replace(bench, runner=replace(bench.runner, engine=lambda _: engine))


def test_a_job_with_an_image_has_sound_as_long_as_its_frames(bench: Bench, asked: Callable[..., JobParams]) -> None:
    content, key = encoded(FIRST[Role.first]), f"inputs/{'0' * 32}/first.png"
    path = bench.objects / key
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    told = {"key": key, "content_type": "image/png", "bytes": len(content), "role": Role.first}
    image = Input(**told, sha256=hashlib.sha256(content).hexdigest(), width=WIDTH, height=HEIGHT)
    job = bench.run(asked(inputs=(image,)))
    assert (job.status, job.error) == (JobStatus.completed, None)
    assert job.artifacts["video"].has_audio
    file = bench.objects / job.artifacts["video"].key
    assert read_recipe(file)["inputs"] == {"first": {"sha256": image.sha256}}
    with av.open(str(file)) as container:
        assert len(list(container.decode(video=0))) == FRAMES
    heard, rate = sound_of(file)
    assert heard.shape == (2, round(FRAMES * rate / FPS))


def test_a_cancelled_job_stops_within_a_step(bench: Bench, asked: Callable[..., JobParams]) -> None:
    bench.store.at_step[2] = lambda lease: bench.store.request_cancel(lease.job.id)
    job = bench.run(asked(steps=20))
    assert job.status is JobStatus.cancelled and max(bench.steps()) <= 3


def test_a_map_for_previews_is_fitted_to_pixels_as_the_vae_takes_them(
    engine: MiniMaxH3Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaspa_worker.latent_rgb.CLIPS", 1)
    monkeypatch.setattr("adaspa_worker.latent_rgb.SIDE", 64)
    assert engine._fit_latent_rgb()(torch.zeros(1, 4, 7, 4, 4, device=engine.device)).shape == (
        7,
        4 * PATCH,
        4 * PATCH,
        3,
    )
    clip = torch.rand(1, 3, 1, 2, 2) * 2 - 1
    torch.testing.assert_close(engine.pixels(engine.for_vae(clip)[0, :, 0]), clip[0, :, 0] / 2 + 0.5)


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"frames": [121], "default_frames": 121}, "frames: 121 is not a multiple of 17 plus 5"),
    ({"frames": [107], "default_frames": 107}, "frames: 107 is too few; allowed: 120 or more"),
    ({"frames": [124, 362]}, "frames: 362 is too many; allowed: up to 360"),
    ({"sizes": ["112x64"]}, "sizes: 112x64 is not a multiple of 32x32"),
    ({"fps_range": [1, 24]}, r"fps_range: the model generates 24 frames per second; allowed: \[24, 24\]"),
    ({"guidance_range": [1, 5]}, "guidance_range: the model has no guidance scale"),
    ({"call": {"guidance": 3}}, "call.guidance: is not an argument of MiniMaxH3ModularPipeline; allowed: attention_k"),
    ({"call": {"height": 64}}, "call.height: is set by the job"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES, ids=str)
def test_what_the_model_cannot_keep_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelUnavailable, match=f"^catalog: model tiny: {message}"):
        check(spec(folder, **changes), folder)


def test_a_part_that_is_missing_or_broken_is_named_and_one_that_no_engine_runs_is_not_wanted(
    folder: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "model"))
    index = other / "modular_model_index.json"
    parts = json.loads(index.read_text())
    parts["transformer_ref"] = parts["transformer"]
    index.write_text(json.dumps(parts))
    check_folder(other)
    (other / "audio_vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match="audio_vae: no safetensors weights"):
        check_folder(other)
    with pytest.raises(ModelUnavailable, match="audio_vae cannot be loaded"):
        load(spec(other), other)
