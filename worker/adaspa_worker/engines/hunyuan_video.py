"""HunyuanVideo."""

from collections.abc import Callable, Generator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams
from diffusers import HunyuanVideoImageToVideoPipeline, HunyuanVideoPipeline
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoAttnProcessor2_0
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_image2video import DEFAULT_PROMPT_TEMPLATE
from torch import Tensor, nn

from adaspa_worker.engines.base import DiffusersEngine
from adaspa_worker.engines.given import Asked

IN_FRONT = 4
"""Frames that image-to-video pipelines leave out in front of a clip, where the image is beside the latents."""
EVERY = {"latent_concat": 2, "token_replace": 4}
"""Ratio of image rows to those kept in front of the text's, by how the transformer gets the image."""


class WithoutRotary(HunyuanVideoAttnProcessor2_0):
    """Attention without the rotary embedding: AdaSpa's needs no memory, where diffusers' makes copies in float32."""

    def __call__(self, *args: Any, image_rotary_emb: Any = None, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


class HunyuanVideoEngine(DiffusersEngine):
    """HunyuanVideo text-to-video pipelines.

    The model is distilled: its guidance is an input, and a negative prompt has no effect, unless the catalog's ``call``
    has a ``true_cfg_scale`` over 1, which runs the transformer twice a step. Without one the catalog has to say
    ``"negative_prompt": false``.
    """

    pipeline = HunyuanVideoPipeline
    guidance = "input"

    @classmethod
    def given(cls, asked: Asked) -> dict[str, Any]:
        config, text = asked.transformer, asked.text(256)
        given = {
            "hidden_states": asked.new(config["in_channels"], *asked.grid),
            "timestep": asked.new(),
            "encoder_hidden_states": asked.new(text, config["text_embed_dim"]),
            "encoder_attention_mask": asked.mask(text),
            "pooled_projections": asked.new(config["pooled_projection_dim"]),
        }
        return given | ({"guidance": asked.new()} if config.get("guidance_embeds") else {})

    @classmethod
    def simplify(cls, model: nn.Module) -> None:
        part: Any
        for part in model.modules():
            if isinstance(getattr(part, "processor", None), HunyuanVideoAttnProcessor2_0):
                part.set_processor(WithoutRotary())

    def to_vae(self, latents: Tensor, params: JobParams) -> Tensor:
        return latents / float(self.pipe.vae.config.scaling_factor)


class HunyuanVideoImageEngine(HunyuanVideoEngine):
    """HunyuanVideo image-to-video pipelines: the image is beside the latents of all frames, or is the first of them."""

    pipeline = HunyuanVideoImageToVideoPipeline

    def __init__(self, spec: ModelSpec, folder: Path) -> None:
        super().__init__(spec, folder)
        kind = self.pipe.transformer.config.image_condition_type
        self._in_front = IN_FRONT if kind == "latent_concat" else 0
        template = spec.call.get("prompt_template") or DEFAULT_PROMPT_TEMPLATE
        every = spec.call.get("image_embed_interleave") or EVERY[kind]
        self.image_rows = len(range(0, template["image_emb_len"], every))

    def shape(self, params: JobParams) -> dict[str, int]:
        shape = super().shape(params)
        return shape | {"num_frames": shape["num_frames"] + self._in_front}

    def frames(self, latents: Tensor, check: Callable[[], None]) -> Generator[np.ndarray]:
        yield from islice(super().frames(latents, check), self._in_front, None)

    def to_vae(self, latents: Tensor, params: JobParams) -> Tensor:
        return super().to_vae(latents[:, :, 1:] if self._in_front else latents, params)
