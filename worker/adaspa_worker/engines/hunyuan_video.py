"""HunyuanVideo."""

import torch
from adaspa_jobs.job import JobParams
from diffusers import HunyuanVideoPipeline
from torch import Tensor

from adaspa_worker.engines.base import DiffusersEngine
from adaspa_worker.source import ModelUnavailable

NAMES = ("prompt_embeds", "pooled_prompt_embeds", "prompt_attention_mask")


class HunyuanVideoEngine(DiffusersEngine):
    """HunyuanVideo text-to-video pipelines.

    The model is distilled: its guidance is an input, and a negative prompt has no effect, unless the catalog's ``call``
    has a ``true_cfg_scale`` over 1, which runs the transformer twice a step. Without one the catalog has to say
    ``"negative_prompt": false``.
    """

    pipeline = HunyuanVideoPipeline

    @torch.no_grad()
    def encode_prompt(self, params: JobParams) -> dict[str, Tensor]:
        embeddings = self._encode(params.prompt)
        if self._takes_negative():
            negative = self._encode(params.negative_prompt or "")
            embeddings |= {f"negative_{name}": value for name, value in negative.items()}
        return embeddings

    def _takes_negative(self) -> bool:
        return bool(self.spec.call.get("true_cfg_scale", 1) > 1)

    def _check_offer(self) -> None:
        super()._check_offer()
        if self.spec.negative_prompt and not self._takes_negative():
            raise ModelUnavailable(
                f"{self.spec.id}: a negative prompt has no effect; the catalog needs "
                '"negative_prompt": false, or a true_cfg_scale over 1 in call'
            )

    def _encode(self, text: str) -> dict[str, Tensor]:
        return dict(zip(NAMES, self.pipe.encode_prompt(text, **self.text_arguments()), strict=True))

    def to_vae(self, latents: Tensor, params: JobParams) -> Tensor:
        return latents / float(self.pipe.vae.config.scaling_factor)

    def multiples(self) -> tuple[int, int]:
        patch = self.transformers[0].config.patch_size
        return self.pipe.vae_scale_factor_spatial * patch, self.pipe.vae_scale_factor_temporal
