"""Previews: when they are made, what they look like, and that the predicted clip is what they show."""

import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from adaspa_jobs.job import JobParams
from adaspa_worker.engines.steps import Denoising, Step
from adaspa_worker.latent_rgb import PATCH, LatentRGB, fit_to, random_clips
from adaspa_worker.pipeline import Engine
from adaspa_worker.preview import EVERY_SECONDS, MAX_BYTES, MAX_FRAMES, MAX_SIDE, SHARE, Previews, to_webp
from diffusers import CogVideoXDDIMScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from PIL import Image


def test_previews_take_their_share_of_the_time_and_no_more() -> None:
    now = 0.0
    cost = 0.05

    def make() -> np.ndarray:
        nonlocal now
        now += cost
        return np.zeros((2, 8, 8, 3), np.uint8)

    previews, taken = Previews(make, 4.0, clock=lambda: now), []
    while now < 100:
        now += 0.1  # a denoising step
        if previews.due():
            assert previews.take()
            taken.append(now)
    assert len(taken) > 30 and min(b - a for a, b in pairwise(taken)) >= 1
    assert previews.spent <= SHARE * now and previews.spent == pytest.approx(cost * len(taken))


@pytest.mark.parametrize(("count", "height", "width"), [(9, 64, 64), (33, 360, 640), (1, 40, 1000)])
def test_a_preview_is_a_small_moving_picture_of_bounded_size(count: int, height: int, width: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)
    image = to_webp(noise, 4.0)
    assert len(image) <= MAX_BYTES
    with Image.open(io.BytesIO(image)) as picture:
        assert picture.format == "WEBP" and max(picture.size) <= MAX_SIDE
        frames = getattr(picture, "n_frames", 1)
        assert 1 <= frames <= MAX_FRAMES


@pytest.mark.parametrize("count", [1, 2, 5, 8, 9, 33])
def test_a_preview_plays_as_long_as_the_clip_from_its_first_frame_to_its_last(count: int) -> None:
    levels = np.linspace(20, 235, count).round().astype(np.uint8)
    image = to_webp(np.broadcast_to(levels[:, None, None, None], (count, 64, 96, 3)).copy(), 4.0)
    shown, lasting = [], []
    with Image.open(io.BytesIO(image)) as picture:
        assert picture.size == (96, 64), "a small one stays as it is"
        for index in range(getattr(picture, "n_frames", 1)):
            picture.seek(index)
            picture.load()
            shown.append(int(np.asarray(picture.convert("RGB")).mean().round()))
            lasting.append(picture.info.get("duration", 0))
        assert count == 1 or picture.info["loop"] == 0
    assert len(shown) == min(count, MAX_FRAMES) and shown == sorted(shown)
    assert abs(shown[0] - int(levels[0])) <= 2 and abs(shown[-1] - int(levels[-1])) <= 2
    assert count == 1 or abs(sum(lasting) - 4000) <= MAX_FRAMES


@pytest.mark.parametrize(("cost", "shows"), [(0.5, True), (0.5, False), (0.01, True)])
def test_what_a_preview_costs_is_what_the_next_one_waits_for(cost: float, shows: bool) -> None:
    """Whether it showed anything or not; and the first one waits for its second, too."""
    now, taken = 0.0, list[float]()

    def make() -> np.ndarray | None:
        nonlocal now
        now += cost
        return np.zeros((2, 8, 8, 3), np.uint8) if shows else None

    previews = Previews(make, 4.0, clock=lambda: now)
    while now < 120:
        now += 0.05
        if previews.due():
            taken.append(now)
            assert (previews.take() is not None) == shows
    assert taken[0] == pytest.approx(1.0, abs=0.06)
    gap = max(EVERY_SECONDS + cost, cost / SHARE)
    assert all(b - a == pytest.approx(gap, abs=0.12) for a, b in pairwise(taken[1:]))
    assert previews.spent == pytest.approx(cost * len(taken))


def test_a_map_is_found_that_shows_what_a_linear_vae_has_encoded() -> None:
    def encode(clip: torch.Tensor) -> torch.Tensor:
        """Two latent frames (the first frame, and the mean of the others) of means over 8x8 pixels, mixed."""
        means = torch.nn.functional.avg_pool2d(clip[0].transpose(0, 1), 8)
        latents = torch.stack([means[0], means[1:].mean(0)], dim=1)
        mix = torch.tensor([[0.5, 0.2, 0.1], [-0.3, 0.8, 0.0], [0.1, 0.1, 0.9], [1.0, -1.0, 0.5]])
        return torch.einsum("oc,cthw->othw", mix, latents).unsqueeze(0) + 0.25

    latent_rgb = fit_to(encode, 5, torch.device("cpu"))
    clip = random_clips(5, torch.device("cpu"))[:1]
    shown = latent_rgb(encode(clip))
    assert shown.shape == (2, 32 * PATCH, 32 * PATCH, 3) and shown.dtype == torch.uint8
    first = ((clip[0, :, 0] + 1) * 127.5).permute(1, 2, 0)
    blocks = first.reshape(32 * PATCH, 8 // PATCH, 32 * PATCH, 8 // PATCH, 3).mean((1, 3))
    assert (shown[0].float() - blocks).abs().mean() < 6


def test_a_folder_brings_its_own_map(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    assert LatentRGB.load(tmp_path) is None
    weight = torch.randn(5, 3 * PATCH * PATCH)
    LatentRGB(weight).save(tmp_path)
    found = LatentRGB.load(tmp_path)
    assert found is not None and torch.equal(found.weight, weight)


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        CogVideoXDDIMScheduler(prediction_type="v_prediction"),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_the_clean_latents_are_those_that_the_scheduler_heads_for(scheduler: torch.nn.Module) -> None:
    """A model that knows the clip, and says so in each scheduler's own terms."""
    clean, noise = torch.randn(1, 4, 2, 3, 3), torch.randn(1, 4, 2, 3, 3)
    scheduler.set_timesteps(6)  # type: ignore[operator]
    seen: list[Step] = []
    with Denoising([scheduler], [], torch.Generator(), None, seen.append):
        latents = noise
        for i, timestep in enumerate(scheduler.timesteps):  # type: ignore[arg-type]
            if isinstance(scheduler, CogVideoXDDIMScheduler):
                share = scheduler.alphas_cumprod[timestep]
                latents = share.sqrt() * clean + (1 - share).sqrt() * noise
                output = share.sqrt() * noise - (1 - share).sqrt() * clean
            elif scheduler.config.get("invert_sigmas"):  # type: ignore[attr-defined]
                output = (clean - latents) / (1 - scheduler.sigmas[i])  # type: ignore[index]
            else:
                output = (latents - clean) / scheduler.sigmas[i]  # type: ignore[index]
            latents = scheduler.step(output, timestep, latents, return_dict=False)[0]  # type: ignore[operator]
    assert [step.number for step in seen] == [1, 2, 3, 4, 5, 6]
    torch.testing.assert_close(seen[2].clean(), clean, atol=1e-3, rtol=1e-3)


def test_an_engine_shows_where_the_denoising_goes(tiny_engine: Engine, params: Callable[..., JobParams]) -> None:
    asked = params(steps=6)
    shown: list[np.ndarray | None] = []
    tiny_engine.reset()  # other tests leave it after a denoising
    latent_rgb = LatentRGB(torch.randn(5, 3 * PATCH * PATCH) / 4).to(tiny_engine.device)  # type: ignore[attr-defined]
    tiny_engine._latent_rgb = latent_rgb  # type: ignore[attr-defined]
    try:
        assert tiny_engine.preview() is None
        latents = tiny_engine.denoise(
            asked, tiny_engine.encode_prompt(asked), lambda *_: shown.append(tiny_engine.preview())
        )
        final = latent_rgb(latents).cpu().numpy()
    finally:
        tiny_engine._latent_rgb = None  # type: ignore[attr-defined]
        tiny_engine.reset()
    assert len(shown) == 6 and all(frames is not None and frames.shape == final.shape for frames in shown)
    errors = [np.abs(frames.astype(int) - final).mean() for frames in shown if frames is not None]
    assert errors[-1] < 1 and errors[0] > errors[-1]
