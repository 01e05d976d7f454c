"""Wan 2.1, and 2.2 with its two experts or, in the 5B, with a timestep for each token."""

from types import MappingProxyType
from typing import Any

import torch
from adaspa_jobs.job import JobParams
from diffusers import WanImageToVideoPipeline, WanPipeline
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from torch import Tensor

from adaspa_worker.engines.base import DiffusersEngine
from adaspa_worker.engines.given import Asked

SEEN = 257
"""Rows in which CLIP tells of an image."""


class WanEngine(DiffusersEngine):
    """Wan text-to-video pipelines; the 5B's takes a first frame too."""

    pipeline = WanPipeline
    with_image: type | None = WanImageToVideoPipeline
    with_image_options = MappingProxyType({"expand_timesteps": True})
    in_float32: tuple[str, ...] = ("vae",)
    decodes_alike_after = 3

    @classmethod
    def given(cls, asked: Asked) -> dict[str, Any]:
        config, (frames, rows, columns) = asked.transformer, asked.grid
        along, down, across = config["patch_size"]
        tokens = (frames // along) * (rows // down) * (columns // across)
        given = {
            "hidden_states": asked.new(config["in_channels"], frames, rows, columns),
            "timestep": asked.new(tokens) if asked.index.get("expand_timesteps") else asked.new()[:1],
            "encoder_hidden_states": asked.new(asked.text(512), config["text_dim"]),
        }
        if (seen := config.get("image_dim")) is not None:
            given["encoder_hidden_states_image"] = asked.new(config.get("pos_embed_seq_len") or SEEN, seen)
        return given

    def decodes_in_parts(self) -> bool:
        return not self.pipe.vae.use_tiling

    def part(self, output: Tensor) -> Tensor:
        patch = self.pipe.vae.config.patch_size
        return (output if patch is None else unpatchify(output, patch_size=patch)).clamp(-1, 1)

    def to_vae(self, latents: Tensor, params: JobParams) -> Tensor:
        if self._images and self.pipe.config.get("expand_timesteps"):
            latents = latents[:, :, 1:]  # the given frame gets into its place behind the last step
        mean, std = (
            torch.tensor(values, device=latents.device).view(1, -1, 1, 1, 1)
            for values in (self.pipe.vae.config.latents_mean, self.pipe.vae.config.latents_std)
        )
        return latents * std + mean


class WanImageEngine(WanEngine):
    """Wan image-to-video pipelines, with the first frame or with both."""

    pipeline = WanImageToVideoPipeline
    with_image = None
    in_float32 = ("vae", "image_encoder")
