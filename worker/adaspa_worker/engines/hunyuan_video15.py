"""HunyuanVideo 1.5."""

from typing import Any

import torch
from adaspa_jobs.job import JobParams
from diffusers import HunyuanVideo15Pipeline
from torch import Tensor

from adaspa_worker.engines.base import DiffusersEngine

NAMES = ("prompt_embeds", "prompt_embeds_mask", "prompt_embeds_2", "prompt_embeds_mask_2")


class HunyuanVideo15Engine(DiffusersEngine):
    """HunyuanVideo 1.5 text-to-video pipelines. Their guidance is a part of the pipeline, and not of its call."""

    pipeline = HunyuanVideo15Pipeline

    @torch.no_grad()
    def encode_prompt(self, params: JobParams) -> dict[str, Tensor]:
        embeddings = self._encode(params.prompt)
        if params.guidance_scale > 1:
            negative = self._encode(params.negative_prompt or "")
            embeddings |= {f"negative_{name}": value for name, value in negative.items()}
        return embeddings

    def _encode(self, text: str) -> dict[str, Tensor]:
        found = self.pipe.encode_prompt([text], device=self.device, dtype=self.transformers[0].dtype)
        return dict(zip(NAMES, found, strict=True))

    def arguments(self, params: JobParams) -> dict[str, Any]:
        self.pipe.guider = self.pipe.guider.new(guidance_scale=params.guidance_scale)
        return {}

    def to_vae(self, latents: Tensor, params: JobParams) -> Tensor:
        return latents / float(self.pipe.vae.config.scaling_factor)

    def multiples(self) -> tuple[int, int]:
        patch = self.transformers[0].config.patch_size
        return self.pipe.vae_scale_factor_spatial * patch, self.pipe.vae_scale_factor_temporal
