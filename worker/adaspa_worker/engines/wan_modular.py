"""Wan 2.1 as a modular pipeline."""

from typing import Any

from adaspa_jobs.job import JobParams
from diffusers import WanModularPipeline

from adaspa_worker.engines.modular import ModularEngine
from adaspa_worker.engines.wan import WanEngine


class WanModularEngine(ModularEngine, WanEngine):
    """Modular Wan text-to-video pipelines. Their guidance is a part of the pipeline, and not of its call."""

    pipeline = WanModularPipeline
    with_image = None

    def arguments(self, params: JobParams) -> dict[str, Any]:
        self.pipe.guider.guidance_scale = params.guidance_scale
        return {}
