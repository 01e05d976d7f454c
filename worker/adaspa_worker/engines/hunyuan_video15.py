"""HunyuanVideo 1.5."""

from pathlib import Path
from typing import Any

import torch
from adaspa_jobs.job import JobParams
from diffusers import HunyuanVideo15ImageToVideoPipeline, HunyuanVideo15Pipeline
from diffusers.guiders import ClassifierFreeZeroStarGuidance
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoAttnProcessor2_0
from torch import Tensor, nn

from adaspa_worker.engines.base import DiffusersEngine
from adaspa_worker.engines.given import Asked
from adaspa_worker.source import ModelUnavailable

TEXT, GLYPHS, SEEN = 1000, 256, 729
"""Rows of a prompt, of the text to be written in the picture, and of an image: fixed in the pipeline."""


class HunyuanVideo15Engine(DiffusersEngine):
    """HunyuanVideo 1.5 text-to-video pipelines. Their guidance is a part of the pipeline, and not of its call."""

    pipeline = HunyuanVideo15Pipeline

    @classmethod
    def given(cls, asked: Asked) -> dict[str, Any]:
        config = asked.transformer
        return {
            "hidden_states": asked.new(config["in_channels"], *asked.grid),
            "timestep": asked.new(),
            "encoder_hidden_states": asked.new(TEXT, config["text_embed_dim"]),
            "encoder_attention_mask": asked.mask(TEXT),
            "encoder_hidden_states_2": asked.new(GLYPHS, config["text_embed_2_dim"]),
            "encoder_attention_mask_2": asked.mask(GLYPHS),
            "image_embeds": asked.new(SEEN, config["image_embed_dim"]),
        }

    @classmethod
    def simplify(cls, model: nn.Module) -> None:
        part: Any
        for part in model.modules():
            if getattr(part, "add_q_proj", None) is not None:
                part.set_processor(HunyuanVideoAttnProcessor2_0())  # its own one masks all rows by all rows
            elif hasattr(part, "prepare_causal_attention_mask"):
                part.prepare_causal_attention_mask = mask_at_once  # its own one fills it row by row

    def _load(self, folder: Path) -> Any:
        pipe = super()._load(folder)
        check_guider(pipe.guider, folder)
        return pipe

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


def check_guider(guider: Any, folder: Path) -> None:
    """Raise ModelUnavailable for a guider that makes no numbers: diffusers 0.42.1 rescales its zero steps by 0 / 0."""
    zero = isinstance(guider, ClassifierFreeZeroStarGuidance) and guider.zero_init_steps > 0
    if zero and guider.guidance_rescale > 0:
        raise ModelUnavailable(
            f"{folder}: guider: a ClassifierFreeZeroStarGuidance with guidance_rescale {guider.guidance_rescale:g} and "
            f"zero_init_steps {guider.zero_init_steps} makes no numbers; allowed: 0 for one of the two"
        )


def mask_at_once(frames: int, places: int, dtype: torch.dtype, device: torch.device, batch_size: int) -> Tensor:
    """Return a mask of the shape of a causal one."""
    return torch.empty(frames * places, frames * places, dtype=dtype, device=device).expand(batch_size, -1, -1)
