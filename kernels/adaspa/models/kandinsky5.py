"""Kandinsky 5: self-attention over the video tokens. Cross-attention and the text's own attention stay as they are."""

from functools import partial
from typing import Any, ClassVar

import torch
from diffusers.models.transformers.transformer_kandinsky import Kandinsky5AttnProcessor

from adaspa.layout import Layout
from adaspa.models.family import Family
from adaspa.models.processor import QKV, AdaSpaProcessor
from adaspa.models.tile_order import over_cells
from adaspa.selection.nabla import nabla


class Kandinsky5Processor(AdaSpaProcessor):
    """Norms over each head in fp32, then rotary embedding, which the model rounds to bfloat16."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        rotary_emb: torch.Tensor | None = None,
        sparse_params: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        """Args: hidden_states ``[B, S, C]``; rotary_emb turns each pair of channels, ``[B, S, 1, D / 2, 2, 2]``.

        NABLA's parameters are in the layout of the forward.
        """
        query, key, value = projected(attn, hidden_states)
        query, key = (norm(x.float()).type_as(x) for norm, x in ((attn.query_norm, query), (attn.key_norm, key)))
        if rotary_emb is not None:
            query, key = (turned(x, rotary_emb).to(torch.bfloat16).type_as(x) for x in (query, key))
        out: torch.Tensor = attn.out_layer(self.attention([query, key, value]))
        return out


def projected(attn: Any, hidden_states: torch.Tensor) -> QKV:
    """Query, key and value ``[B, S, H, D]``."""
    return [
        project(hidden_states).unflatten(-1, (attn.num_heads, -1))
        for project in (attn.to_query, attn.to_key, attn.to_value)
    ]


def turned(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Each pair of channels of ``[..., D]`` by its matrix of ``[..., D / 2, 2, 2]``, in fp32."""
    pairs = x.unflatten(-1, (-1, 1, 2)).float()
    return (turns.float() * pairs).sum(dim=-1).reshape(x.shape)


class Kandinsky5(Family):
    """`Kandinsky5Transformer3DModel`. Its long-video models are trained with NABLA, and keep it in every step."""

    processor = Kandinsky5Processor
    originals = (Kandinsky5AttnProcessor,)
    embeddings: ClassVar = {"visual_embeddings": over_cells(1), "visual_rope_embeddings": over_cells(1)}
    outputs: ClassVar = {"out_layer.norm": over_cells(1)}

    def layers(self, transformer: Any) -> list[Any]:
        return [block.self_attention for block in transformer.visual_transformer_blocks]

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        if sparse := given.get("sparse_params"):
            return Layout(pattern=partial(nabla, share=sparse["P"], near=sparse["sta_mask"]))
        return Layout(grid=channels_last_grid(transformer, given))


def channels_last_grid(transformer: Any, given: dict[str, Any]) -> tuple[int, int, int]:
    """Compute the grid of video tokens of latents ``[B, frames, rows, columns, C]``."""
    sizes = zip(given["hidden_states"].shape[1:4], transformer.config.patch_size, strict=True)
    frames, rows, columns = (size // patch for size, patch in sizes)
    return frames, rows, columns
