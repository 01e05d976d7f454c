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

    def to_vae(self, latents: Tensor, params: JobParams) -> Tensor:
        mean, std = (
            torch.tensor(values, device=latents.device).view(1, -1, 1, 1, 1)
            for values in (self.pipe.vae.config.latents_mean, self.pipe.vae.config.latents_std)
        )
        return latents * std + mean
