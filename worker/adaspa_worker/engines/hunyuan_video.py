"""HunyuanVideo."""

from adaspa_jobs.job import JobParams
from diffusers import HunyuanVideoPipeline
from torch import Tensor

from adaspa_worker.engines.base import DiffusersEngine


class HunyuanVideoEngine(DiffusersEngine):
    """HunyuanVideo text-to-video pipelines.

    The model is distilled: its guidance is an input, and a negative prompt has no effect, unless the catalog's ``call``
    has a ``true_cfg_scale`` over 1, which runs the transformer twice a step. Without one the catalog has to say
    ``"negative_prompt": false``.
    """

    pipeline = HunyuanVideoPipeline

    def to_vae(self, latents: Tensor, params: JobParams) -> Tensor:
        return latents / float(self.pipe.vae.config.scaling_factor)
