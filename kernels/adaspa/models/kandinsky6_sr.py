"""Kandinsky 6's upscaler: self-attention over the video tokens by NABLA's pattern, in every layer and step."""

from functools import partial
from typing import Any, ClassVar

import torch
from diffusers.models.transformers.transformer_kandinsky6_sr import (
    FRACTAL_BLOCK_SIZE,
    Kandinsky6SRAttnProcessor,
    sliding_tile_mask,
)

from adaspa.layout import Layout
from adaspa.models.family import Family
from adaspa.models.kandinsky5 import channels_last_grid, projected, turned
from adaspa.models.processor import AdaSpaProcessor
from adaspa.selection.nabla import nabla


class Kandinsky6SRProcessor(AdaSpaProcessor):
    """Norms over each head in fp32, then rotary embedding."""

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, rotary_emb: torch.Tensor, sparse_params: dict[str, Any]
    ) -> torch.Tensor:
        """Args: as `Kandinsky5Processor`; NABLA's parameters are in the layout of the forward."""
        query, key, value = projected(attn, hidden_states)
        query, key = (
            turned(norm(x.float()).type_as(x), rotary_emb).type_as(x)
            for norm, x in ((attn.query_norm, query), (attn.key_norm, key))
        )
        out: torch.Tensor = attn.out_layer(self.attention([query, key, value]))
        return out


class Kandinsky6SR(Family):
    """`Kandinsky6SRTransformer3DModel`. Its tokens come in the order of its own blocks of 8 x 8."""

    processor = Kandinsky6SRProcessor
    originals = (Kandinsky6SRAttnProcessor,)
    embeddings: ClassVar = {}
    outputs: ClassVar = {}

    def layers(self, transformer: Any) -> list[Any]:
        return [block.self_attention for block in transformer.visual_transformer_blocks]

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        config, device = transformer.config, given["hidden_states"].device
        frames, rows, columns = channels_last_grid(transformer, given)
        blocks = rows // FRACTAL_BLOCK_SIZE, columns // FRACTAL_BLOCK_SIZE
        near = sliding_tile_mask(frames, *blocks, config.nabla_window, device)
        return Layout(pattern=partial(nabla, share=config.nabla_threshold, near=near))
