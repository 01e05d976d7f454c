"""LTX-Video."""

from collections.abc import Mapping
from typing import Any

from adaspa_api.words import Role
from adaspa_jobs.job import JobParams
from diffusers import LTXConditionPipeline, LTXImageToVideoPipeline, LTXPipeline
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from torch import Tensor

from adaspa_worker.engines.base import DiffusersEngine
from adaspa_worker.engines.given import Asked
from adaspa_worker.pipeline import Given


class LTXEngine(DiffusersEngine):
    """LTX text-to-video pipelines, which also take a first frame.

    Their latents are a sequence of tokens. Some of their VAEs denoise once more, from ``decode_timestep`` and
    ``decode_noise_scale`` of the catalog's ``call``.
    """

    pipeline = LTXPipeline
    with_image: type | None = LTXImageToVideoPipeline
    last_frame_first = True
    """True if the tokens of a given last frame stand before the clip's; false if behind them."""
    guidance = "batch"

    @classmethod
    def given(cls, asked: Asked) -> dict[str, Any]:
        config, (frames, rows, columns) = asked.transformer, asked.grid
        tokens, text = frames // config["patch_size_t"] * rows * columns // config["patch_size"] ** 2, asked.text(128)
        return {
            "hidden_states": asked.new(tokens, config["in_channels"]),
            "timestep": asked.new(),
            "encoder_hidden_states": asked.new(text, config["caption_channels"]),
            "encoder_attention_mask": asked.mask(text),
            **{"num_frames": frames, "height": rows, "width": columns},
        }

    def arguments(self, params: JobParams) -> dict[str, Any]:
        return {"guidance_scale": params.guidance_scale, "frame_rate": params.fps}

    def to_vae(self, latents: Tensor, params: JobParams) -> Tensor:
        pipe, vae = self.pipe, self.pipe.vae
        if latents.ndim == 3:  # with an image they are all but the first frame, and no tokens any more
            latents = self._unpacked(latents, params)
        normal: Tensor = pipe._denormalize_latents(
            latents, vae.latents_mean, vae.latents_std, vae.config.scaling_factor
        )
        return normal

    def _unpacked(self, latents: Tensor, params: JobParams) -> Tensor:
        pipe = self.pipe
        side, patch = pipe.vae_spatial_compression_ratio, pipe.transformer_spatial_patch_size
        frames = (params.num_frames - 1) // pipe.vae_temporal_compression_ratio + 1
        rows, columns = params.height // side, params.width // side
        tokens = frames * rows * columns // (patch**2 * pipe.transformer_temporal_patch_size)
        unpacked: Tensor = pipe._unpack_latents(
            latents[:, -tokens:] if self.last_frame_first else latents[:, :tokens],
            frames,
            rows,
            columns,
            patch,
            pipe.transformer_temporal_patch_size,
        )
        return unpacked


class LTXImageEngine(LTXEngine):
    """LTX image-to-video pipelines."""

    pipeline = LTXImageToVideoPipeline
    with_image = None


class LTXConditionEngine(LTXEngine):
    """LTX pipelines of text, of a first frame, of both, or of a video to continue.

    ``strength`` in the catalog's ``call`` is that of all.
    """

    pipeline = LTXConditionPipeline
    with_image = None

    def pictures(self, params: JobParams, images: Mapping[Role, Given]) -> dict[str, Any]:
        strength = self.spec.call.get("strength", 1.0)
        conditions = [
            LTXVideoCondition(
                **{role.kind: image}, frame_index=params.num_frames - 1 if role is Role.last else 0, strength=strength
            )
            for role, image in images.items()
        ]
        return {"conditions": conditions or None}
