"""Latents of drawn scenes, as the transformer is trained on them."""

from __future__ import annotations

import random

import torch
from diffusers import WanPipeline
from torch import Tensor

from .scenes import Scene, caption, draw, sample_scenes
from .whole_clip import encode_clip

EMPTY_CAPTIONS = 0.1  # share of unconditional samples, for classifier-free guidance
CAPTION_TOKENS = 40  # no caption is longer
TWO_ACTORS = 0.65  # share of pairs in training: who does what is the last thing that is learned


@torch.no_grad()
def encode(pipe: WanPipeline, scenes: list[Scene], device: str, batch: int = 64) -> Tensor:
    """The VAE's latents of drawn scenes, not normalised: bf16 [len(scenes), 16, 9, 16, 16]."""
    parts = []
    for start in range(0, len(scenes), batch):
        with torch.autocast(device, torch.bfloat16):
            parts.append(encode_clip(pipe.vae, draw(scenes[start : start + batch], device=device))[0])
    return torch.cat(parts).to(torch.bfloat16)


def measure(pipe: WanPipeline, rng: random.Random, device: str, clips: int = 512) -> None:
    """Write the latents' mean and deviation per channel into the VAE's configuration, where the pipeline looks."""
    bank = encode(pipe, sample_scenes(rng, clips), device).float()
    mean, std = bank.mean(dim=(0, 2, 3, 4)), bank.std(dim=(0, 2, 3, 4))
    pipe.vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    print("latents: mean", mean.tolist(), "std", std.tolist())


class LatentPool:
    """Encoded clips to draw batches from; some of it is replaced every few steps, so that no clip is seen often."""

    def __init__(self, pipe: WanPipeline, rng: random.Random, device: str, clips: int):
        self.pipe, self.rng, self.device, self.oldest = pipe, rng, device, 0
        self.latents, self.tokens = self._encode(clips)

    def _encode(self, clips: int) -> tuple[Tensor, Tensor]:
        scenes, config = sample_scenes(self.rng, clips, two_actors=TWO_ACTORS), self.pipe.vae.config
        mean, std = (
            torch.tensor(values, device=self.device).view(1, -1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        latents = ((encode(self.pipe, scenes, self.device) - mean) / std).to(torch.bfloat16)
        texts = [caption(scene) for scene in scenes]
        tokens = self.pipe.tokenizer(texts, padding="max_length", max_length=CAPTION_TOKENS, return_tensors="pt")
        return latents, tokens.input_ids.to(self.device)

    def refresh(self, clips: int) -> None:
        """Replace the `clips` oldest ones."""
        rows = torch.arange(self.oldest, self.oldest + clips, device=self.device) % len(self.latents)
        self.latents[rows], self.tokens[rows] = self._encode(clips)
        self.oldest = (self.oldest + clips) % len(self.latents)

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Normalised latents [size, 16, 9, 16, 16] and token ids [size, 40], some of them of the empty caption."""
        rows = torch.randint(len(self.latents), (size,), device=self.device)
        tokens = self.tokens[rows]
        empty = torch.zeros_like(tokens[:1])
        empty[:, 0] = self.pipe.tokenizer.eos_token_id
        drop = torch.rand(size, 1, device=self.device) < EMPTY_CAPTIONS
        return self.latents[rows], torch.where(drop, empty, tokens)
