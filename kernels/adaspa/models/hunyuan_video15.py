"""HunyuanVideo 1.5: joint attention over video and three texts: image, glyph (ByT5) and prompt (Qwen) tokens."""

from typing import Any, ClassVar

import torch
from diffusers.models.transformers.transformer_hunyuan_video15 import HunyuanVideo15AttnProcessor2_0

from adaspa.layout import Layout
from adaspa.models.family import Family, patch_grid
from adaspa.models.hunyuan_video import HunyuanVideoProcessor
from adaspa.models.plans import GATHERED, rotary, split_behind
from adaspa.models.tile_order import along


class HunyuanVideo15(Family):
    """`HunyuanVideo15Transformer3DModel`: it gathers the valid tokens of the three texts in front of the padding."""

    processor = HunyuanVideoProcessor
    originals = (HunyuanVideo15AttnProcessor2_0,)
    embeddings: ClassVar = {"x_embedder": along(-2), "rope": along(-2)}

    def layers(self, transformer: Any) -> list[Any]:
        return [block.attn for block in transformer.transformer_blocks]

    def plan(self, transformer: Any) -> dict[str, Any] | None:
        return {"x_embedder": {0: split_behind(3, 1)}, "rope": rotary(2), **GATHERED}

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        masks = (given["encoder_attention_mask"], given["encoder_attention_mask_2"])
        image = given["image_embeds"]
        # An image of zeros is text-to-video, where the model masks the image tokens.
        image_length = (image != 0).any() * image.shape[1]
        lengths = sum(mask.bool().sum(dim=1, dtype=torch.int) for mask in masks) + image_length
        config = transformer.config
        return Layout(
            sum(mask.shape[1] for mask in masks) + image.shape[1],
            tuple(lengths.tolist()),
            patch_grid(given["hidden_states"], config.patch_size_t, config.patch_size, config.patch_size),
        )
