"""CogVideoX and CogVideoX 1.5."""

from adaspa_jobs.job import JobParams
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline
from torch import Tensor

from adaspa_worker.engines.base import DiffusersEngine


class CogVideoXEngine(DiffusersEngine):
    """CogVideoX text-to-video pipelines. Their latents have the frames before the channels."""

    pipeline = CogVideoXPipeline

    def to_vae(self, latents: Tensor, params: JobParams) -> Tensor:
        # CogVideoX 1.5 denoises a whole number of its patches in time; what is too much comes first.
        wanted = (params.num_frames - 1) // self.pipe.vae_scale_factor_temporal + 1
        return latents[:, latents.shape[1] - wanted :].transpose(1, 2) / float(self.pipe.vae_scaling_factor_image)


class CogVideoXImageEngine(CogVideoXEngine):
    """CogVideoX image-to-video pipelines."""

    pipeline = CogVideoXImageToVideoPipeline
