"""CogVideoX and CogVideoX 1.5."""

import torch
from adaspa_jobs.job import JobParams
from diffusers import CogVideoXPipeline
from torch import Tensor

from adaspa_worker.engines.base import DiffusersEngine


class CogVideoXEngine(DiffusersEngine):
    """CogVideoX text-to-video pipelines. Their latents have the frames before the channels."""

    pipeline = CogVideoXPipeline

    @torch.no_grad()
    def encode_prompt(self, params: JobParams) -> dict[str, Tensor]:
        guided = params.guidance_scale > 1
        positive, negative = self.pipe.encode_prompt(
            params.prompt, params.negative_prompt, do_classifier_free_guidance=guided, **self.text_arguments()
        )
        return {"prompt_embeds": positive} | ({"negative_prompt_embeds": negative} if guided else {})

    def to_vae(self, latents: Tensor, params: JobParams) -> Tensor:
        # CogVideoX 1.5 denoises a whole number of its patches in time; what is too much comes first.
        wanted = (params.num_frames - 1) // self.pipe.vae_scale_factor_temporal + 1
        # Multiplied as the pipeline does it: in bfloat16 a division rounds to other latents.
        return latents[:, latents.shape[1] - wanted :].transpose(1, 2) * (1 / self.pipe.vae_scaling_factor_image)

    def multiples(self) -> tuple[int, int]:
        patch = self.transformers[0].config.patch_size
        return self.pipe.vae_scale_factor_spatial * patch, self.pipe.vae_scale_factor_temporal
