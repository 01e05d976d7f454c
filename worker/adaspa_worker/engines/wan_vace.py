"""Wan VACE, which shows in its video who or what is in an image."""

from collections.abc import Mapping
from typing import Any

import torch
from adaspa_api.words import Role
from adaspa_jobs.job import JobParams
from diffusers import WanVACEPipeline
from PIL import ImageOps
from PIL.Image import Image, Resampling
from torch import Tensor

from adaspa_worker.engines.given import Asked
from adaspa_worker.engines.wan import WanEngine
from adaspa_worker.pipeline import Given


class WanVACEEngine(WanEngine):
    """Wan VACE pipelines of a text, or of a text and a reference. They denoise the reference as a frame before all."""

    pipeline = WanVACEPipeline
    with_image = None

    @classmethod
    def given(cls, asked: Asked) -> dict[str, Any]:
        config, more = asked.transformer, bool(asked.params.inputs)
        frames, rows, columns = asked.grid
        whole = super().given(asked)
        return whole | {
            "hidden_states": asked.new(config["in_channels"], frames + more, rows, columns),
            "control_hidden_states": asked.new(config["vace_in_channels"], frames + more, rows, columns),
            "control_hidden_states_scale": torch.empty(len(config["vace_layers"]), dtype=asked.dtype, device="meta"),
        }

    def pictures(self, params: JobParams, images: Mapping[Role, Given]) -> dict[str, Any]:
        size = (params.width, params.height)
        pictures = [image for image in images.values() if isinstance(image, Image)]
        whole = [ImageOps.pad(image, size, Resampling.LANCZOS, "white") for image in pictures]
        return {"reference_images": whole or None}

    def to_vae(self, latents: Tensor, params: JobParams) -> Tensor:
        return super().to_vae(latents[:, :, len(self._images) :], params)
