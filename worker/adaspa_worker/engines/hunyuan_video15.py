"""HunyuanVideo 1.5."""

from typing import Any

from adaspa_jobs.job import JobParams
from diffusers import HunyuanVideo15ImageToVideoPipeline, HunyuanVideo15Pipeline
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


class HunyuanVideo15ImageEngine(HunyuanVideo15Engine):
    """HunyuanVideo 1.5 image-to-video pipelines.

    By themselves they choose a size by the image's shape; here they use the job's.
    """

    pipeline = HunyuanVideo15ImageToVideoPipeline

    def shape(self, params: JobParams) -> dict[str, int]:
        size = params.height, params.width
        self.pipe.video_processor.calculate_default_height_width = lambda **_: size
        return {"num_frames": params.num_frames}
