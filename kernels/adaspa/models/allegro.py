"""Allegro: self-attention ``attn1`` over the video tokens. Cross-attention ``attn2`` stays as it is."""

from typing import Any, ClassVar

import torch
from diffusers.models.attention_processor import AllegroAttnProcessor2_0
from diffusers.models.embeddings import apply_rotary_emb_allegro

from adaspa.layout import Layout
from adaspa.models.family import Family, patch_grid
from adaspa.models.processor import AdaSpaProcessor, project, project_out, split_heads
from adaspa.models.tile_order import along, over_frames

Rotary = tuple[tuple[tuple[torch.Tensor, torch.Tensor], ...], tuple[torch.Tensor, ...]]


class AllegroProcessor(AdaSpaProcessor):
    """No norms; a rotary embedding of each axis on a third of the channels."""

    def __call__(  # noqa: PLR0917 - diffusers' order
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        image_rotary_emb: Rotary | None = None,
    ) -> torch.Tensor:
        """Args: hidden_states ``[B, S, H * D]``; image_rotary_emb tables for each axis, and places on it ``[1, S]``.

        With a mask over video tokens the layer stays as it was: dense.
        """
        if attention_mask is not None:
            out: torch.Tensor = self.original(
                attn, hidden_states, encoder_hidden_states, attention_mask, temb, image_rotary_emb
            )
            return out
        query, key, value = split_heads(attn, project(attn, hidden_states))
        if image_rotary_emb is not None:
            query, key = (
                apply_rotary_emb_allegro(x.transpose(1, 2), *image_rotary_emb).transpose(1, 2) for x in (query, key)
            )
        return project_out(attn, self.attention([query, key, value]))


def over_places(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Reorder places of tokens ``[1, S]``; tables by place stay as they are."""
    return x if x.is_floating_point() else along(-1)(x, order)


class Allegro(Family):
    """`AllegroTransformer3DModel`."""

    processor = AllegroProcessor
    originals = (AllegroAttnProcessor2_0,)
    embeddings: ClassVar = {"pos_embed": over_frames}
    arguments: ClassVar = {"image_rotary_emb": over_places}

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        config = transformer.config
        grid = patch_grid(given["hidden_states"], config.patch_size_t, config.patch_size, config.patch_size)
        masked = given.get("attention_mask") is not None
        return Layout(grid=None if masked else grid, masked=masked)
