"""CogVideoX and CogVideoX 1.5: joint attention over text and video with the same projections for both."""

from typing import Any, ClassVar

import torch
from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0, FusedCogVideoXAttnProcessor2_0

from adaspa.layout import Layout
from adaspa.models.family import Family, patch_grid
from adaspa.models.plans import GATHERED, split_before
from adaspa.models.processor import AdaSpaProcessor, norm_heads, project, project_out, rotate, split_heads
from adaspa.models.tile_order import along


class CogVideoXProcessor(AdaSpaProcessor):
    """Norms over each head, rotary embedding of the video (none in CogVideoX-2B)."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Args: hidden_states, encoder_hidden_states ``[B, S, H * D]``; the model attends to all of its text."""
        if attention_mask is not None:
            raise ValueError("attention_mask must be None in the self-attention of CogVideoX")
        video, text = (
            norm_heads(split_heads(attn, project(attn, x)), attn.norm_q, attn.norm_k)
            for x in (hidden_states, encoder_hidden_states)
        )
        if image_rotary_emb is not None:
            rotate(video, image_rotary_emb)
        video_out, text_out = (project_out(attn, out) for out in self.joint_attention(video, text))
        return video_out, text_out


class CogVideoX(Family):
    """`CogVideoXTransformer3DModel`."""

    processor = CogVideoXProcessor
    originals = (
        CogVideoXAttnProcessor2_0,
        FusedCogVideoXAttnProcessor2_0,
    )
    embeddings: ClassVar = {"patch_embed": along(-2)}
    arguments: ClassVar = {"image_rotary_emb": along(-2)}

    def plan(self, transformer: Any) -> dict[str, Any] | None:
        tables = [split_before(2, 0), split_before(2, 0)]
        return {
            "transformer_blocks.0": {"hidden_states": split_before(3, 1)},
            # All blocks are given the same tables.
            "transformer_blocks.*": {"image_rotary_emb": tables},
            **GATHERED,
        }

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        latents, patch = given["hidden_states"].transpose(1, 2), transformer.config.patch_size
        grid = patch_grid(latents, transformer.config.get("patch_size_t") or 1, patch, patch)
        return Layout(given["encoder_hidden_states"].shape[1], grid=grid)
