"""LTX-Video."""

from typing import Any

from adaspa_jobs.job import JobParams
from diffusers import LTXPipeline
from torch import Tensor

from adaspa_worker.engines.base import DiffusersEngine


class LTXEngine(DiffusersEngine):
    """LTX text-to-video pipelines. Their latents are a sequence of tokens, and some of their VAEs denoise once more,
    from ``decode_timestep`` and ``decode_noise_scale`` of the catalog's ``call``."""

    pipeline = LTXPipeline

    def arguments(self, params: JobParams) -> dict[str, Any]:
        return {"guidance_scale": params.guidance_scale, "frame_rate": params.fps}

    def to_vae(self, latents: Tensor, params: JobParams) -> Tensor:
        pipe, vae = self.pipe, self.pipe.vae
        side = pipe.vae_spatial_compression_ratio
        unpacked = pipe._unpack_latents(
            latents,
            (params.num_frames - 1) // pipe.vae_temporal_compression_ratio + 1,
            params.height // side,
            params.width // side,
            pipe.transformer_spatial_patch_size,
            pipe.transformer_temporal_patch_size,
        )
        normal: Tensor = pipe._denormalize_latents(
            unpacked, vae.latents_mean, vae.latents_std, vae.config.scaling_factor
        )
        return normal
