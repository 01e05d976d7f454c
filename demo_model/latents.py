"""Latents of drawn scenes, as the transformer is trained on them."""

import random

import torch
from diffusers import DiffusionPipeline, WanPipeline
from torch import Tensor
from torch.nn import functional as F

from demo_model.scenes import FRAMES, SIDE, Scene, brief_caption, caption, draw, find_actors, sample_scenes
from demo_model.whole_clip import encode_clip

EMPTY_CAPTIONS = 0.1  # share of unconditional samples, for classifier-free guidance
BRIEF_CAPTIONS = 0.2  # share of them where an image is given
CAPTION_TOKENS = 40  # no caption is longer
PIXELS_AT_ONCE = 64 * FRAMES * SIDE * SIDE  # of the clips that are drawn and encoded together
TWO_ACTORS = 0.65  # share of pairs in training: who does what is the last thing that is learned


@torch.no_grad()
def encode(
    pipe: DiffusionPipeline, scenes: list[Scene], device: str, frames: int = FRAMES, side: int = SIDE
) -> tuple[Tensor, Tensor]:
    """Drawn scenes as the VAE's latents, not normalised, and which of these show an actor.

    Returns:
        bf16 [len(scenes), 16, 1 + (frames - 1) / 4, side / 8, side / 8], and the same with one channel, 0 or 1.
    """
    latents, shown = [], []
    batch = max(1, PIXELS_AT_ONCE // (frames * side * side))
    for start in range(0, len(scenes), batch):
        video = draw(scenes[start : start + batch], frames=frames, height=side, width=side, device=device)
        with torch.autocast(device, torch.bfloat16):
            latents.append(encode_clip(pipe.vae, video)[0].to(torch.bfloat16))
        shown.append(show_actors(video))
    return torch.cat(latents), torch.cat(shown)


def show_actors(video: Tensor) -> Tensor:
    """Latents of `video` [B, 3, 1 + 4 * n, 8 * h, 8 * w] that show an actor: bf16 [B, 1, 1 + n, h, w], 0 or 1."""
    actors = find_actors(video).to(torch.bfloat16)
    return torch.cat([F.max_pool3d(actors[:, :, :1], (1, 8, 8)), F.max_pool3d(actors[:, :, 1:], (4, 8, 8))], dim=2)


def normalise(pipe: DiffusionPipeline, latents: Tensor) -> Tensor:
    """Latents of mean 0 and deviation 1 in each channel, as the transformer has them: bf16."""
    mean, std = (
        torch.tensor(values, device=latents.device).view(1, -1, 1, 1, 1)
        for values in (pipe.vae.config.latents_mean, pipe.vae.config.latents_std)
    )
    return ((latents - mean) / std).to(torch.bfloat16)


@torch.no_grad()
def encode_first_frames(pipe: DiffusionPipeline, scenes: list[Scene], device: str, batch: int = 64) -> Tensor:
    """What `WanImageToVideoPipeline` gives the transformer of each scene's first frame.

    Returns:
        bf16 [len(scenes), 20, 9, 16, 16]: a mask of the given frames in four channels, one for each frame of a latent
        one, and the normalised latents of a clip that is grey behind its first frame.
    """
    conditions = []
    for start in range(0, len(scenes), batch):
        first = draw(scenes[start : start + batch], frames=1, device=device)
        video = F.pad(first, (0, 0, 0, 0, 0, FRAMES - 1))
        with torch.autocast(device, torch.bfloat16):
            latents = normalise(pipe, encode_clip(pipe.vae, video)[0])
        mask = torch.zeros_like(latents[:, :4])
        mask[:, :, 0] = 1.0
        conditions.append(torch.cat([mask, latents], dim=1))
    return torch.cat(conditions)


def measure(pipe: WanPipeline, rng: random.Random, device: str, clips: int = 512) -> None:
    """Write the latents' mean and deviation per channel into the VAE's configuration, where the pipeline looks."""
    bank = encode(pipe, sample_scenes(rng, clips), device)[0].float()
    mean, std = bank.mean(dim=(0, 2, 3, 4)), bank.std(dim=(0, 2, 3, 4))
    pipe.vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    print("latents: mean", mean.tolist(), "std", std.tolist())


class LatentPool:
    """Encoded clips to draw batches from; some of it is replaced every few steps, so that no clip is seen often."""

    def __init__(
        self,
        pipe: DiffusionPipeline,
        rng: random.Random,
        device: str,
        clips: int,
        *,
        frames: int = FRAMES,
        side: int = SIDE,
    ):
        self.pipe, self.rng, self.device, self.oldest = pipe, rng, device, 0
        self.frames, self.side = frames, side
        self.parts = self._encode(clips)

    def _encode(self, clips: int) -> tuple[Tensor, ...]:
        return self._parts(sample_scenes(self.rng, clips, two_actors=TWO_ACTORS))

    def _caption(self, scene: Scene) -> str:
        return caption(scene)

    def _parts(self, scenes: list[Scene]) -> tuple[Tensor, ...]:
        latents, shown = encode(self.pipe, scenes, self.device, self.frames, self.side)
        texts = [self._caption(scene) for scene in scenes]
        tokens = self.pipe.tokenizer(texts, padding="max_length", max_length=CAPTION_TOKENS, return_tensors="pt")
        return normalise(self.pipe, latents), shown, tokens.input_ids.to(self.device)

    def refresh(self, clips: int) -> None:
        """Replace the `clips` oldest ones."""
        count = len(self.parts[0])
        rows = torch.arange(self.oldest, self.oldest + clips, device=self.device) % count
        for part, new in zip(self.parts, self._encode(clips), strict=True):
            part[rows] = new
        self.oldest = (self.oldest + clips) % count

    def batch(self, size: int) -> tuple[Tensor, ...]:
        """Normalised latents and which of them show an actor, both as `encode` has them, and token ids [size, 40],
        some of them of the empty caption."""
        rows = torch.randint(len(self.parts[0]), (size,), device=self.device)
        latents, shown, tokens, *rest = (part[rows] for part in self.parts)
        empty = torch.zeros_like(tokens[:1])
        empty[:, 0] = self.pipe.tokenizer.eos_token_id
        drop = torch.rand(size, 1, device=self.device) < EMPTY_CAPTIONS
        return latents, shown, torch.where(drop, empty, tokens), *rest


class FirstFramePool(LatentPool):
    """The same; a batch has as its fourth part what the transformer is given of the first frames.

    Some captions tell no more than the motions: the image shows the rest.
    """

    def _caption(self, scene: Scene) -> str:
        return brief_caption(scene) if self.rng.random() < BRIEF_CAPTIONS else caption(scene)

    def _parts(self, scenes: list[Scene]) -> tuple[Tensor, ...]:
        return *super()._parts(scenes), encode_first_frames(self.pipe, scenes, self.device)
