"""Cosmos Predict 1, 2 and 2.5: self-attention ``attn1`` over the video tokens. Cross-attention stays as it is."""

from typing import Any, ClassVar

import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_cosmos import CosmosAttnProcessor2_0

from adaspa.layout import Layout
from adaspa.models.family import Family, patch_grid
from adaspa.models.processor import AdaSpaProcessor, norm_heads, project, project_out, split_heads
from adaspa.models.tile_order import along, over_cells


class CosmosProcessor(AdaSpaProcessor):
    """Norms over each head, rotary embedding of a channel with the one half the head behind it."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Args: hidden_states ``[B, S, H * D]``; image_rotary_emb cos and sin ``[S, D]``."""
        if encoder_hidden_states is not None or attention_mask is not None:
            raise ValueError("encoder_hidden_states and attention_mask must be None in the self-attention of Cosmos")
        query, key, value = norm_heads(split_heads(attn, project(attn, hidden_states)), attn.norm_q, attn.norm_k)
        if image_rotary_emb is not None:
            query, key = (
                apply_rotary_emb(x, image_rotary_emb, use_real_unbind_dim=-2, sequence_dim=1) for x in (query, key)
            )
        return project_out(attn, self.attention([query, key, value]))


class Cosmos(Family):
    """`CosmosTransformer3DModel`."""

    processor = CosmosProcessor
    originals = (CosmosAttnProcessor2_0,)
    embeddings: ClassVar = {"patch_embed": over_cells(1), "rope": along(-2), "learnable_pos_embed": along(-2)}
    arguments: ClassVar = {"block_controlnet_hidden_states": along(-2)}

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        # The model spreads timesteps for each frame over its tokens by itself.
        per_frame = given["timestep"].ndim > 1
        grid = patch_grid(given["hidden_states"], *transformer.config.patch_size)
        return Layout(grid=None if per_frame else grid)
