"""Mochi 1."""

import torch
from adaspa_jobs.job import JobParams
from diffusers import MochiPipeline
from torch import Tensor

from adaspa_worker.engines.base import DiffusersEngine


class MochiEngine(DiffusersEngine):
    """Mochi text-to-video pipelines."""

    pipeline = MochiPipeline

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
