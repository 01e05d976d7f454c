"""Kandinsky 6: self-attention over the video tokens. The sound's own attention and all cross-attention stay."""

from typing import Any, ClassVar

import torch
from diffusers.models.transformers.transformer_kandinsky6 import Kandinsky6AttnProcessor

from adaspa.layout import Layout
from adaspa.models.family import Family
from adaspa.models.kandinsky5 import channels_last_grid, projected, turned
from adaspa.models.processor import AdaSpaProcessor
from adaspa.models.tile_order import over_cells


class Kandinsky6Processor(AdaSpaProcessor):
    """Norms over each head, then rotary embedding."""

    def __call__(  # noqa: PLR0917 - diffusers' order
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        rotary_emb: torch.Tensor | None = None,
        rotary_emb_kv: torch.Tensor | None = None,
        attn_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Args: hidden_states ``[B, S, C]``; rotary_emb turns each pair of channels, ``[S, 1, D / 2, 2, 2]``."""
        if encoder_hidden_states is not None or attn_mask is not None:
            raise ValueError("encoder_hidden_states and attn_mask must be None in the self-attention of Kandinsky 6")
        query, key, value = projected(attn, hidden_states)
        query, key = attn.query_norm(query), attn.key_norm(key)
        if rotary_emb is not None:
            query = turned(query, rotary_emb).type_as(query)
        if rotary_emb_kv is not None:
            key = turned(key, rotary_emb_kv).type_as(key)
        out: torch.Tensor = attn.out_layer(self.attention([query, key, value]))
        return out


class Kandinsky6(Family):
    """`Kandinsky6Transformer3DModel`."""

    processor = Kandinsky6Processor
    originals = (Kandinsky6AttnProcessor,)
    embeddings: ClassVar = {"visual_embeddings": over_cells(1), "visual_rope_embeddings": over_cells(0)}
    outputs: ClassVar = {"out_layer.norm": over_cells(1)}

    def layers(self, transformer: Any) -> list[Any]:
        return [block.video_dec_block.self_attention for block in transformer.visual_transformer_blocks]

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        # Types of frames are added behind the embedding, frame by frame.
        by_frame = given.get("visual_token_type_ids") is not None
        return Layout(grid=None if by_frame else channels_last_grid(transformer, given))
