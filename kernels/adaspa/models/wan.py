"""Wan 2.1 and 2.2: self-attention ``attn1`` over the video tokens. Cross-attention ``attn2`` stays as it is."""

from typing import Any, ClassVar

import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from adaspa.layout import Layout
from adaspa.models.family import Family, patch_grid
from adaspa.models.processor import AdaSpaProcessor, norm_heads, project, project_out, rotate, split_heads
from adaspa.models.tile_order import along, over_grid

Rotary = tuple[torch.Tensor, torch.Tensor]


class WanProcessor(AdaSpaProcessor):
    """Norms over all heads together, then rotary embedding."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: Rotary | None = None,
    ) -> torch.Tensor:
        """Args: hidden_states ``[B, S, H * D]``; rotary_emb cos and sin ``[1, S, 1, D]``. Returns ``[B, S, H * D]``."""
        if encoder_hidden_states is not None or attention_mask is not None:
            raise ValueError("encoder_hidden_states and attention_mask must be None in the self-attention of Wan")
        qkv = split_heads(attn, norm_heads(project(attn, hidden_states), attn.norm_q, attn.norm_k))
        if rotary_emb is not None:
            cos, sin = (table[0, :, 0] for table in rotary_emb)
            rotate(qkv, (cos, sin))
        return project_out(attn, self.attention(qkv))


class Wan(Family):
    """`WanTransformer3DModel`."""

    processor = WanProcessor
    originals = (WanAttnProcessor,)
    embeddings: ClassVar = {"patch_embedding": over_grid, "rope": along(-3)}
    parted: ClassVar = {"patch_embedding": "blocks.0"}
    arguments: ClassVar = {"timestep": along(-1)}  # one for each token in image-to-video with Wan 2.2 5B

    def layers(self, transformer: Any) -> list[Any]:
        return [block.attn1 for block in transformer.blocks]

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        return Layout(grid=patch_grid(given["hidden_states"], *transformer.config.patch_size))
