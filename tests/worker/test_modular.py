"""Modular pipelines: a clip and its sound as diffusers makes them, with all that jobs have."""

import hashlib
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
from adaspa_api.words import JobStatus, Role, Task
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import Input, JobParams
from adaspa_service.inputs.sounds import write_beginning
from adaspa_worker.checkpoint import unpack
from adaspa_worker.engines.minimax_h3 import ImageProcessor, MiniMaxH3Engine
from adaspa_worker.engines.modular import ModularEngine
from adaspa_worker.latent_rgb import PATCH, LatentRGB
from adaspa_worker.offer import check
from adaspa_worker.pipeline import Given, load
from adaspa_worker.recipe import read_recipe
from adaspa_worker.sound import Sound
from adaspa_worker.source import ModelUnavailable, check_folder
from clips import sound_of
from diffusers import ModularPipeline
from diffusers.modular_pipelines.minimax_h3 import MiniMaxH3AudioReference, MiniMaxH3ImageReference
from diffusers.modular_pipelines.minimax_h3.references import MiniMaxH3Reference
from drawn import corners, encoded
from foreseen import Shapes, foreseen, given_to
from interrupted import interrupted
from job_bench import Bench
from PIL.Image import Image
from recorded import recorded
from tiny_families import MODULAR, save_family
from tiny_wan import model_spec

WIDTH, HEIGHT, FRAMES, FPS = 96, 64, 124, 24
NONE: Mapping[Role, Image] = {}
FILE = {"key": f"inputs/{'0' * 32}/reference.png", "content_type": "image/png", "bytes": 1, "sha256": "0" * 64}
FIRST = {Role.first: corners(WIDTH, HEIGHT)}
WITH_REFERENCES = [Task.reference_to_video, Task.reference_audio_to_video]
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


@pytest.fixture(scope="module")
def of_references(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> MiniMaxH3Engine:
    """The model for references, in a folder without the transformer for all else."""
    other = Path(shutil.copytree(folder, tmp_path_factory.mktemp("references") / "model"))
    shutil.rmtree(other / "transformer")
    entry = spec(other, memory={"dtype": "float32"}, tasks=WITH_REFERENCES)
    check_folder(other, entry.tasks)
    check(entry, other)
    loaded = load(entry, other)
    assert isinstance(loaded, MiniMaxH3Engine)
    return loaded


@pytest.fixture
def asked(params: Callable[..., JobParams]) -> Callable[..., JobParams]:
    usual = {"width": WIDTH, "height": HEIGHT, "num_frames": FRAMES, "fps": FPS, "steps": 3, "quality": "exact"}
    return lambda **changes: params(**usual | changes)


def plain(folder: Path, params: JobParams, given: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """What anyone's pipeline makes of it in diffusers: frames in [0, 1], and the sound [channels, samples]."""
    pipe = ModularPipeline.from_pretrained(folder)
    pipe.load_components([name for name in pipe.pretrained_component_names if name != "processor"])
    pipe.register_components(processor=ImageProcessor.from_pretrained(folder / "processor"))
    made = pipe(
        prompt=params.prompt,
        height=params.height,
        width=params.width,
        num_frames=params.num_frames,
        num_inference_steps=params.steps + 1,  # noise levels, of which the last is none
        generator=torch.Generator().manual_seed(params.seed),
        output_type="np",
        **given,
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
    names = {Role.first: "image", Role.last: "last_image"}
    frames, waveform = plain(folder, params, {names[role]: image for role, image in images.items()})
    assert clip.shape == (FRAMES, HEIGHT, WIDTH, 3) and np.abs(clip - frames * 255).max() <= 2
    assert sound is not None and sound.rate == 32_000
    np.testing.assert_allclose(sound.samples, waveform.clip(-1, 1), atol=1e-5)
    assert np.ptp(waveform) > 0 and sound.samples.shape[1] >= round(FRAMES * 32_000 / FPS) - 400


VOICE = Sound(np.random.default_rng(0).uniform(-1, 1, (1, 2 * 48_000)).astype(np.float32), 48_000)
"""Two seconds at another rate than the model's."""


@pytest.mark.parametrize("sound", [{}, {Role.audio: VOICE}], ids=["image", "image and sound"])
def test_a_clip_of_references_is_that_of_the_pipeline_called_plainly(
    of_references: MiniMaxH3Engine, folder: Path, asked: Callable[..., JobParams], sound: dict[Role, Given]
) -> None:
    params, picture = asked(), corners(120, 80)
    given = {Role.reference: picture, **sound}
    engine = of_references
    assert [type(part) for part in engine.transformers] == [type(engine.pipe.transformer_ref)]
    with given_to(engine.transformers[0]) as shapes:
        latents = engine.denoise(params, engine.encode_prompt(params, given), lambda *_: None)
    told = Input(**FILE, role=Role.reference, width=picture.width, height=picture.height)
    assert_foreseen(foreseen(engine, params.model_copy(update={"inputs": (told,)})), shapes, NONE)
    clip, heard = np.stack(list(engine.frames(latents, lambda: None))), engine.sound(params)
    engine.reset()
    references: list[MiniMaxH3Reference] = [MiniMaxH3ImageReference(picture)]
    if sound:
        references.append(MiniMaxH3AudioReference(torch.from_numpy(VOICE.at(32_000).samples), 32_000))
    frames, waveform = plain(folder, params, {"references": references})
    assert np.abs(clip - frames * 255).max() <= 2 and heard is not None
    np.testing.assert_allclose(heard.samples, waveform.clip(-1, 1), atol=1e-5)


def test_another_sound_makes_another_clip_and_a_sparse_one_goes_on_where_it_stopped(
    of_references: MiniMaxH3Engine, asked: Callable[..., JobParams]
) -> None:
    engine, params = of_references, asked(steps=6, quality=None)
    given: dict[Role, Given] = {Role.reference: corners(120, 80), Role.audio: VOICE}
    kinds: list[str | None] = []
    before = engine.encode_prompt(params, given)
    whole = engine.denoise(params, before, lambda _, kind: kinds.append(kind))
    assert kinds == ["dense", "dense", "search", "sparse", "search", "sparse"] and engine.report()["fell_back"] == []
    engine.reset()
    other = engine.encode_prompt(params, given | {Role.audio: Sound(VOICE.samples / 2, VOICE.rate)})
    assert not torch.equal(engine.denoise(params, other, lambda *_: None), whole)
    engine.reset()
    exact = asked()
    before = engine.encode_prompt(exact, given)
    whole = engine.denoise(exact, before, lambda *_: None)
    engine.reset()
    resume = unpack(interrupted(engine, exact, before, 2), exact.model_dump_json())
    again = engine.denoise(exact, engine.encode_prompt(exact, given), lambda *_: None, resume)
    assert torch.equal(again, whole)
    engine.reset()


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


def test_jobs_of_one_prompt_and_one_image_encode_it_once(
    engine: ModularEngine, asked: Callable[..., JobParams]
) -> None:
    ran: list[int] = []
    words = engine.pipe.text_encoder.get_input_embeddings()
    hook = words.register_forward_pre_hook(lambda *_: ran.append(1))
    params = asked(prompt="a blue square moving left")
    first, second = (engine.encode_prompt(params.model_copy(update={"seed": seed}), FIRST) for seed in (1, 2))
    (one,), (other,) = first.answers, second.answers
    assert len(ran) == 1 and torch.equal(one.get("prompt_embeds"), other.get("prompt_embeds"))
    engine.encode_prompt(params, {Role.first: corners(WIDTH, HEIGHT).rotate(180)})
    assert len(ran) == 2
    hook.remove()


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


def test_a_job_with_a_sound_runs_and_its_recipe_names_it(
    bench: Bench, of_references: MiniMaxH3Engine, asked: Callable[..., JobParams], tmp_path: Path
) -> None:
    (tmp_path / "voice.wav").write_bytes(recorded(seconds=2))
    write_beginning(tmp_path / "voice.wav", tmp_path / "audio.flac", 5.0)
    given = {
        Role.reference: ("reference.png", encoded(corners(120, 80)), {"width": 120, "height": 80}),
        Role.audio: ("audio.flac", (tmp_path / "audio.flac").read_bytes(), {"frames": None, "seconds": 2.0}),
    }
    inputs = []
    for role, (name, content, told) in given.items():
        path = bench.objects / (key := f"inputs/{'0' * 32}/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        kind = {"content_type": "image/png" if role is Role.reference else "audio/flac"}
        inputs.append(Input(key=key, bytes=len(content), sha256=sha256, role=role, **kind, **told))
    own = replace(bench, runner=replace(bench.runner, engine=lambda _: of_references))
    job = own.run(asked(inputs=tuple(inputs)))
    assert (job.status, job.error) == (JobStatus.completed, None)
    told = read_recipe(bench.objects / job.artifacts["video"].key)["inputs"]
    assert told == {each.role: {"sha256": each.sha256} for each in inputs}


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
    ({"tasks": ["text_to_video", "reference_to_video"]}, "tasks: references need another transformer; allowed: those"),
    ({"tasks": ["video_continuation"]}, "tasks: the model does not support video_continuation; allowed: first_last_fr"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES, ids=str)
def test_what_the_model_cannot_keep_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelUnavailable, match=f"^catalog: model tiny: {message}"):
        check(spec(folder, **changes), folder)


def test_a_part_that_is_missing_or_broken_is_named_and_one_that_no_engine_runs_is_not_wanted(
    folder: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "model"))
    shutil.rmtree(other / "transformer_ref")
    check_folder(other)
    with pytest.raises(ModelUnavailable, match="transformer_ref: the component's folder or its configuration is miss"):
        check_folder(other, WITH_REFERENCES)
    (other / "audio_vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match="audio_vae: no safetensors weights"):
        check_folder(other)
    with pytest.raises(ModelUnavailable, match="audio_vae cannot be loaded"):
        load(spec(other), other)
