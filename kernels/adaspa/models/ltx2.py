"""LTX-2: self-attention ``attn1`` over the video tokens. The audio's and all cross-attention stays as it is."""

from collections.abc import Collection
from math import prod
from typing import Any, ClassVar

import torch
from diffusers.models.transformers.transformer_ltx2 import (
    LTX2AudioVideoAttnProcessor,
    LTX2PerturbedAttnProcessor,
    apply_interleaved_rotary_emb,
    apply_split_rotary_emb,
)

from adaspa.layout import Layout
from adaspa.models.family import Family
from adaspa.models.ltx import packed_layout
from adaspa.models.plans import GATHERED, PER_TOKEN, rotary, split_behind
from adaspa.models.processor import AdaSpaProcessor, project, project_out, split_heads
from adaspa.models.tile_order import along

ROTATIONS = {"interleaved": apply_interleaved_rotary_emb, "split": apply_split_rotary_emb}


class LTX2Processor(AdaSpaProcessor):
    """Norms and rotary embedding over all heads together; a gate for each head in later versions of the model."""

    def __call__(  # noqa: PLR0917 - diffusers' order
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        query_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        key_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        perturbation_mask: torch.Tensor | None = None,
        all_perturbed: bool | None = None,
    ) -> torch.Tensor:
        """Args: hidden_states ``[B, S, H * D]``; perturbation_mask, 0 in samples that skip attention (STG), else 1.

        With a mask between video tokens (IC-LoRA) the layer stays as it was: dense.
        """
        if attention_mask is not None:
            perturbation = {} if perturbation_mask is None else {"perturbation_mask": perturbation_mask}
            return self.original(
                attn, hidden_states, encoder_hidden_states, attention_mask, query_rotary_emb, **perturbation
            )
        if encoder_hidden_states is not None or key_rotary_emb is not None:
            raise ValueError("encoder_hidden_states and key_rotary_emb must be None in the self-attention of LTX-2")
        query, key, value = project(attn, hidden_states)
        if all_perturbed:
            out = value
        else:
            query, key = attn.norm_q(query), attn.norm_k(key)
            if query_rotary_emb is not None:
                query, key = (ROTATIONS[attn.rope_type](x, query_rotary_emb) for x in (query, key))
            out = self.attention(split_heads(attn, [query, key, value]))
            if perturbation_mask is not None:
                out = torch.lerp(value, out, perturbation_mask)
        if attn.to_gate_logits is not None:
            gates = 2 * torch.sigmoid(attn.to_gate_logits(hidden_states))
            out = (out.unflatten(2, (attn.heads, -1)) * gates.unsqueeze(-1)).flatten(2, 3)
        return project_out(attn, out)


class LTX2(Family):
    """`LTX2VideoTransformer3DModel`."""

    processor = LTX2Processor
    originals = (LTX2AudioVideoAttnProcessor, LTX2PerturbedAttnProcessor)
    embeddings: ClassVar = {"proj_in": along(-2), "rope": along(-2), "cross_attn_rope": along(-2)}
    arguments: ClassVar = {
        "timestep": along(-1),
        "video_keyframes_mask": along(-2),
    }

    exchanging = ("video_to_audio_attn",)

    def plan(self, transformer: Any) -> dict[str, Any] | None:
        """Every rank has the whole sound, which attends to the video of all by diffusers' own exchange."""
        tables = rotary(4, 2) if transformer.config.rope_type == "split" else rotary(3, 1)
        return {
            **PER_TOKEN,
            "proj_in": {0: split_behind(3, 1)},
            "rope": tables,
            "cross_attn_rope": tables,
            **GATHERED,
        }

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        layout = packed_layout(given)
        if layout.grid is None:
            behind = given["hidden_states"].shape[1] - prod(given[name] for name in ("num_frames", "height", "width"))
            layout = layout._replace(behind=behind)
        masked = given.get("video_self_attention_mask") is not None
        return layout._replace(grid=None, masked=True) if masked else layout

    def passed_on(self, given: dict[str, Any]) -> Collection[int]:
        mask = given.get("perturbation_mask")
        return given.get("spatio_temporal_guidance_blocks") or () if mask is None or not mask.any() else ()
