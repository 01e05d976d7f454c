"""Mochi 1."""

from typing import Any

import torch
from adaspa_jobs.job import JobParams
from diffusers import MochiPipeline
from torch import Tensor, nn

from adaspa_worker.engines.base import DiffusersEngine
from adaspa_worker.engines.given import Asked


class MochiEngine(DiffusersEngine):
    """Mochi text-to-video pipelines."""

    pipeline = MochiPipeline
    guidance = "batch"

    @classmethod
    def given(cls, asked: Asked) -> dict[str, Any]:
        config, text = asked.transformer, asked.text(256)
        return {
            "hidden_states": asked.new(config["in_channels"], *asked.grid),
            "timestep": asked.new(),
            "encoder_hidden_states": asked.new(text, config["text_embed_dim"]),
            "encoder_attention_mask": asked.mask(text, torch.bool),
        }

    @classmethod
    def simplify(cls, model: nn.Module) -> None:
        if (rope := getattr(model, "rope", None)) is not None:
            rope._create_rope = rotary_tables  # its own one asks for autocast, which meta tensors do not have

    def to_vae(self, latents: Tensor, params: JobParams) -> Tensor:
        config = self.pipe.vae.config
        scaled = latents / float(config.scaling_factor)
        if config.latents_mean is None or config.latents_std is None:
            return scaled
        mean, std = (
            torch.tensor(values, device=latents.device).view(1, -1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return scaled * std + mean


def rotary_tables(frequencies: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of each place, head and frequency."""
    angles = torch.einsum("nd,dhf->nhf", places.float(), frequencies.float())
    return angles.cos(), angles.sin()
