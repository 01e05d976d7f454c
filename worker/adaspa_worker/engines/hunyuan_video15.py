"""HunyuanVideo 1.5."""

from typing import Any

from adaspa_jobs.job import JobParams
from diffusers import HunyuanVideo15Pipeline
from torch import Tensor

from adaspa_worker.engines.base import DiffusersEngine


class HunyuanVideo15Engine(DiffusersEngine):
    """HunyuanVideo 1.5 text-to-video pipelines. Their guidance is a part of the pipeline, and not of its call."""

    pipeline = HunyuanVideo15Pipeline

    def arguments(self, params: JobParams) -> dict[str, Any]:
        self.pipe.guider = self.pipe.guider.new(guidance_scale=params.guidance_scale)
        return {}

    def to_vae(self, latents: Tensor, params: JobParams) -> Tensor:
        return latents / float(self.pipe.vae.config.scaling_factor)
