"""Mochi 1."""

import torch
from adaspa_jobs.job import JobParams
from diffusers import MochiPipeline
from torch import Tensor

from adaspa_worker.engines.base import DiffusersEngine

NAMES = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")


class MochiEngine(DiffusersEngine):
    """Mochi text-to-video pipelines."""

    pipeline = MochiPipeline

    @torch.no_grad()
    def encode_prompt(self, params: JobParams) -> dict[str, Tensor]:
        guided = params.guidance_scale > 1
        found = self.pipe.encode_prompt(
            params.prompt, params.negative_prompt, do_classifier_free_guidance=guided, **self.text_arguments()
        )
        return dict(list(zip(NAMES, found, strict=True))[: 4 if guided else 2])

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

    def multiples(self) -> tuple[int, int]:
        return self.pipe.vae_spatial_scale_factor * self.pipe.patch_size, self.pipe.vae_temporal_scale_factor
