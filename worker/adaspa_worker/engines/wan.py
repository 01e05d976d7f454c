"""Wan 2.1, and 2.2 with its two experts."""

import torch
from adaspa_jobs.job import JobParams
from diffusers import WanPipeline
from torch import Tensor

from adaspa_worker.engines.base import DiffusersEngine


class WanEngine(DiffusersEngine):
    """Wan text-to-video pipelines."""

    pipeline = WanPipeline
    vae_in_float32 = True

    @torch.no_grad()
    def encode_prompt(self, params: JobParams) -> dict[str, Tensor]:
        guided = params.guidance_scale > 1
        positive, negative = self.pipe.encode_prompt(
            params.prompt, params.negative_prompt, do_classifier_free_guidance=guided, **self.text_arguments()
        )
        return {"prompt_embeds": positive} | ({"negative_prompt_embeds": negative} if guided else {})

    def to_vae(self, latents: Tensor, params: JobParams) -> Tensor:
        mean, std = (
            torch.tensor(values, device=latents.device).view(1, -1, 1, 1, 1)
            for values in (self.pipe.vae.config.latents_mean, self.pipe.vae.config.latents_std)
        )
        return latents * std + mean

    def multiples(self) -> tuple[int, int]:
        patch = self.transformers[0].config.patch_size[1]
        return self.pipe.vae_scale_factor_spatial * patch, self.pipe.vae_scale_factor_temporal
