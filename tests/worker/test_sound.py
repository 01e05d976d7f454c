"""LTX-2's sound: in the file as the model makes it, told, left out where nobody wants it or nothing holds it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from adaspa_api.words import ErrorCode
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams
from adaspa_worker.checkpoint import pack, unpack
from adaspa_worker.engines.ltx2 import LTX2Engine
from adaspa_worker.offer import check
from adaspa_worker.pipeline import load
from adaspa_worker.sound import Sound
from clips import sound_of
from diffusers import LTX2Pipeline
from job_bench import Bench
from tiny_families import FAMILIES, save_family
from tiny_wan import model_spec

FRAMES, FPS, STEPS = 9, 7, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("ltx-2", tmp_path_factory.mktemp("ltx-2"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> LTX2Engine:
    own = FAMILIES["ltx-2"]
    call = own.shorter | dict(own.call)
    spec = ModelSpec.model_validate(model_spec(folder, sizes=["96x64"], call=call, audio=True))
    loaded = load(spec, folder)
    assert isinstance(loaded, LTX2Engine)
    return loaded


@pytest.fixture
def asked(params: Callable[..., JobParams]) -> Callable[..., JobParams]:
    usual = {"width": 96, "height": 64, "num_frames": FRAMES, "fps": FPS, "steps": STEPS, "quality": "exact"}
    return lambda **changes: params(**usual | changes)


@pytest.fixture
def bench(bench: Bench, engine: LTX2Engine) -> Bench:
    bench.runner.engine = lambda _: engine
    return bench


def file_of(bench: Bench, params: JobParams) -> tuple[Path, bool]:
    """The video of a job that completes, and whether its record has a sound."""
    job = bench.run(params)
    assert job.error is None
    return bench.objects / job.artifacts["video"].key, job.artifacts["video"].has_audio


def plain_waveform(folder: Path, params: JobParams) -> np.ndarray:
    """What anyone's pipeline makes of it in diffusers, cut off or silent where the frames end: [channels, samples]."""
    pipe = LTX2Pipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    waveform = pipe(
        params.prompt,
        height=params.height,
        width=params.width,
        num_frames=params.num_frames,
        frame_rate=params.fps,
        num_inference_steps=params.steps,
        guidance_scale=params.guidance_scale,
        generator=torch.Generator().manual_seed(params.seed),
        output_type="np",
        **FAMILIES["ltx-2"].shorter | dict(FAMILIES["ltx-2"].call),
    ).audio[0]
    length = round(params.num_frames * pipe.vocoder.config.output_sampling_rate / params.fps)
    cut: np.ndarray = waveform.float().numpy()[:, :length]
    return np.pad(cut, ((0, 0), (0, length - cut.shape[1])))


def audible(wave: np.ndarray, rate: int) -> np.ndarray:
    """What of a wave of one channel is over 20 Hz: Opus leaves out what is far below."""
    spectrum = np.fft.rfft(wave)
    spectrum[np.fft.rfftfreq(len(wave), 1 / rate) < 20] = 0
    return np.fft.irfft(spectrum, len(wave))


def test_the_file_has_the_sound_of_the_pipeline_called_plainly(
    bench: Bench, folder: Path, asked: Callable[..., JobParams]
) -> None:
    wanted = plain_waveform(folder, asked())
    for output, codec, times in (("mp4", "aac", 1), ("webm", "opus", 2)):
        path, has_audio = file_of(bench, asked(output_format=output))
        assert has_audio
        with av.open(str(path)) as container:
            assert container.streams.audio[0].codec_context.name.removeprefix("lib") == codec
        heard, rate = sound_of(path)
        assert rate == 24_000 * times and heard.shape == (2, round(FRAMES * rate / FPS))
        same = Sound(wanted, 24_000).at(rate).samples[:, : heard.shape[1]]
        kept = [np.corrcoef(*(audible(each, rate) for each in pair))[0, 1] for pair in zip(same, heard, strict=True)]
        assert min(kept) > 0.9, (output, kept)


def test_a_vocoder_that_adds_high_tones_is_heard_at_its_rate(tmp_path: Path, asked: Callable[..., JobParams]) -> None:
    folder, own = save_family("ltx-2.5", tmp_path), FAMILIES["ltx-2"]
    call = own.shorter | dict(own.call)
    given = {"frames": [FRAMES], "default_frames": FRAMES, "memory": {"dtype": "float32"}}  # as plain_waveform has it
    spec = ModelSpec.model_validate(model_spec(folder, sizes=["96x64"], call=call, audio=True, **given))
    check(spec, folder)
    engine = load(spec, folder)
    engine.denoise(asked(), engine.encode_prompt(asked(), {}), lambda *_: None)
    sound = engine.sound(asked())
    wanted = plain_waveform(folder, asked())
    assert sound is not None and sound.rate == 48_000 and np.ptp(wanted) > 0
    length = min(sound.samples.shape[1], wanted.shape[1])
    np.testing.assert_allclose(sound.samples[:, :length], wanted[:, :length], atol=2e-3)  # a GPU convolves in TF32


@pytest.mark.parametrize("changes", [{"audio": False}, {"output_format": "gif"}, {"output_format": "webp"}], ids=str)
def test_a_file_that_is_to_have_none_has_none(
    bench: Bench, asked: Callable[..., JobParams], changes: dict[str, object]
) -> None:
    path, has_audio = file_of(bench, asked(**changes))
    assert not has_audio
    if path.suffix == ".mp4":
        with av.open(str(path)) as container:
            assert len(container.streams.video) == 1 and not container.streams.audio


@pytest.mark.parametrize("output", ["mp4", "webm"])
def test_a_seed_gives_the_same_file_each_time(bench: Bench, asked: Callable[..., JobParams], output: str) -> None:
    first, second = (file_of(bench, asked(output_format=output))[0].read_bytes() for _ in range(2))
    assert first == second
    assert file_of(bench, asked(output_format=output, seed=99))[0].read_bytes() != first


@pytest.mark.parametrize("at", [1, STEPS])
def test_a_resumed_denoising_comes_to_the_same_sound(
    engine: LTX2Engine, asked: Callable[..., JobParams], at: int
) -> None:
    params, kept = asked(), []

    def keep(done: int, _: object) -> None:
        if done == at:
            kept.append(pack(engine.snapshot() or {}, params.model_dump_json()))

    def sound(resume: dict[str, Any] | None = None) -> Sound | None:
        engine.denoise(params, engine.encode_prompt(params), keep, resume)
        made = engine.sound(params)
        engine.reset()
        return made

    whole, resumed = sound(), sound(unpack(kept[0], params.model_dump_json()))
    assert whole is not None and resumed is not None
    assert np.array_equal(whole.samples, resumed.samples) and np.ptp(whole.samples) > 0


def test_a_sound_that_is_no_numbers_fails_the_job(
    bench: Bench, engine: LTX2Engine, asked: Callable[..., JobParams], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = engine.pipe.vocoder.conv_out.weight
    monkeypatch.setattr(weight, "data", torch.full_like(weight, torch.nan))
    job = bench.run(asked())
    assert job.error is not None and job.error.code == ErrorCode.not_finite
