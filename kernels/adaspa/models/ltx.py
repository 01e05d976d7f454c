"""LTX-Video: self-attention ``attn1`` over the video tokens. Cross-attention ``attn2`` stays as it is."""

from typing import Any, ClassVar

import torch
from diffusers.models.transformers.transformer_ltx import LTXVideoAttnProcessor

from adaspa.layout import Layout
from adaspa.models.family import Family
from adaspa.models.plans import GATHERED, PER_TOKEN, rotary, split_behind
from adaspa.models.processor import AdaSpaProcessor, norm_heads, project, project_out, rotate_apart, split_heads
from adaspa.models.tile_order import along


class LTXProcessor(AdaSpaProcessor):
    """Norms and rotary embedding over all heads together."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Args: hidden_states ``[B, S, H * D]``; image_rotary_emb cos and sin ``[B, S, H * D]``."""
        if encoder_hidden_states is not None or attention_mask is not None:
            raise ValueError("encoder_hidden_states and attention_mask must be None in the self-attention of LTX")
        qkv = split_heads(attn, norm_heads(project(attn, hidden_states), attn.norm_q, attn.norm_k))
        if image_rotary_emb is not None:
            qkv[:2] = (rotate_apart(x, image_rotary_emb) for x in qkv[:2])
        return project_out(attn, self.attention(qkv))


class LTX(Family):
    """`LTXVideoTransformer3DModel`."""

    processor = LTXProcessor
    originals = (LTXVideoAttnProcessor,)
    embeddings: ClassVar = {"proj_in": along(-2), "rope": along(-2)}
    arguments: ClassVar = {"timestep": along(-1)}  # one for each token where frames are given

    def plan(self, transformer: Any) -> dict[str, Any] | None:
        # Diffusers' own splits the text too, and cannot where its length does not divide.
        return {**PER_TOKEN, "proj_in": {0: split_behind(3, 1)}, "rope": rotary(3, 1), **GATHERED}

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        coordinates = given.get("video_coords")  # [B, 3, S]
        if coordinates is None:
            return packed_layout(given)
        # Frames that the clip is to come to stand before it, and have its later times.
        return Layout(before=int((coordinates[0] == 0).all(dim=0).int().argmax()))


def packed_layout(given: dict[str, Any]) -> Layout:
    """Lay out latents that come as tokens ``[B, S, C]``; with reference tokens behind them they are no grid."""
    sizes = tuple(given.get(name) for name in ("num_frames", "height", "width"))
    frames, rows, columns = (size or 0 for size in sizes)
    return Layout(grid=(frames, rows, columns) if frames * rows * columns == given["hidden_states"].shape[1] else None)
