"""LTX-Video."""

from typing import Any

import torch
from adaspa_jobs.job import JobParams
from diffusers import LTXPipeline
from torch import Tensor

from adaspa_worker.engines.base import DiffusersEngine

NAMES = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")


class LTXEngine(DiffusersEngine):
    """LTX text-to-video pipelines. Their latents are a sequence of tokens, and some of their VAEs denoise once more,
    from ``decode_timestep`` and ``decode_noise_scale`` of the catalog's ``call``."""

    pipeline = LTXPipeline

    @torch.no_grad()
    def encode_prompt(self, params: JobParams) -> dict[str, Tensor]:
        guided = params.guidance_scale > 1
        found = self.pipe.encode_prompt(
            params.prompt, params.negative_prompt, do_classifier_free_guidance=guided, **self.text_arguments()
        )
        return dict(list(zip(NAMES, found, strict=True))[: 4 if guided else 2])

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

    def decode(self, latents: Tensor) -> Tensor:
        timestep = None
        if self.pipe.vae.config.timestep_conditioning:
            assert self._params is not None
            at = float(self.spec.call.get("decode_timestep", 0.0))
            scale = float(self.spec.call.get("decode_noise_scale", at))
            generator = torch.Generator().manual_seed(self._params.seed)
            noise = torch.randn(latents.shape, generator=generator, dtype=latents.dtype).to(latents.device)
            latents, timestep = (1 - scale) * latents + scale * noise, latents.new_tensor([at])
        decoded: Tensor = self.pipe.vae.decode(latents, timestep, return_dict=False)[0]
        return decoded

    def multiples(self) -> tuple[int, int]:
        pipe = self.pipe
        return (
            pipe.vae_spatial_compression_ratio * pipe.transformer_spatial_patch_size,
            pipe.vae_temporal_compression_ratio * pipe.transformer_temporal_patch_size,
        )
