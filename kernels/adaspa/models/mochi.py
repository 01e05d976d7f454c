"""Mochi: joint attention over the video and the valid text of each sample."""

from typing import Any, ClassVar

import torch
from diffusers.models.attention_processor import MochiAttnProcessor2_0

from adaspa.layout import Layout
from adaspa.models.family import Family, patch_grid, valid_in_front
from adaspa.models.plans import GATHERED, rotary, split_before
from adaspa.models.processor import (
    AdaSpaProcessor,
    norm_heads,
    project,
    project_out,
    project_text,
    split_heads,
)
from adaspa.models.tile_order import along, over_frames
from adaspa.ops.reference.rotary import rotate_pairs


class MochiProcessor(AdaSpaProcessor):
    """Norms over each head, then a learned rotary embedding of the video with frequencies of its own for each head."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Args: hidden_states, encoder_hidden_states ``[B, S, C]``; image_rotary_emb cos and sin ``[S, H, D / 2]``."""
        video = norm_heads(split_heads(attn, project(attn, hidden_states)), attn.norm_q, attn.norm_k)
        if image_rotary_emb is not None:
            # In fp32, as the model does it.
            video[:2] = (rotate_pairs(x.float(), *image_rotary_emb).type_as(x) for x in video[:2])
        text = split_heads(attn, project_text(attn, encoder_hidden_states))
        video_out, text_out = self.joint_attention(video, norm_heads(text, attn.norm_added_q, attn.norm_added_k))
        video_out = project_out(attn, video_out)
        # The last layer has no use for its text.
        return video_out, attn.to_add_out(text_out) if hasattr(attn, "to_add_out") else text_out


class Mochi(Family):
    """`MochiTransformer3DModel`."""

    processor = MochiProcessor
    originals = (MochiAttnProcessor2_0,)
    timesteps_rise = True
    embeddings: ClassVar = {"patch_embed": over_frames, "rope": along(-3)}

    def plan(self, transformer: Any) -> dict[str, Any] | None:
        return {"transformer_blocks.0": {"hidden_states": split_before(3, 1)}, "rope": rotary(3), **GATHERED}

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        mask, patch = given["encoder_attention_mask"], transformer.config.patch_size
        return Layout(mask.shape[1], valid_in_front(mask), patch_grid(given["hidden_states"], 1, patch, patch))
