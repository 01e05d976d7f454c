"""MiniMax-H3: one packed sequence of text, conditions, sound and video, with the same weights for all."""

from typing import Any, ClassVar

import torch
from diffusers.models.transformers.transformer_minimax_h3 import MiniMaxH3AttnProcessor, _apply_rotary_emb

from adaspa.layout import Layout
from adaspa.models.family import Family
from adaspa.models.processor import AdaSpaProcessor, norm_heads, project, project_out, split_heads
from adaspa.models.tile_order import along

OF_ROWS = ("timestep_indices", "token_tags", "position_ids")
"""Arguments with an entry for each row of the packed sequence."""
WHERE = ("video_indices", "audio_indices", "text_indices")
"""Arguments with the places of the rows of one kind."""


class MiniMaxH3Processor(AdaSpaProcessor):
    """Norms over each head, rotary embedding of a part of its channels."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Args: hidden_states ``[B, S, C]``; rotary_emb cos and sin ``[S, rotated channels]``."""
        if attention_mask is not None:
            raise ValueError("attention_mask must be None in the self-attention of MiniMax-H3")
        qkv = norm_heads(split_heads(attn, project(attn, hidden_states)), attn.norm_q, attn.norm_k)
        if rotary_emb is not None:
            for place in range(2):
                qkv[place] = _apply_rotary_emb(qkv[place], *rotary_emb)
        return project_out(attn, self.attention(qkv))


class MiniMaxH3(Family):
    """`MiniMaxH3Transformer3DModel`. Its timesteps rise from noise, 0, to the video, 1."""

    processor = MiniMaxH3Processor
    originals = (MiniMaxH3AttnProcessor,)
    timesteps_rise = True
    embeddings: ClassVar = {"proj_in": along(-2), "rope": along(-2)}
    narrowed = ("proj_in",)

    def layers(self, transformer: Any) -> list[Any]:
        return [block.attn for block in transformer.transformer_blocks]

    def timestep(self, given: dict[str, Any]) -> torch.Tensor:
        """Return the timestep of the video's last row; conditions and sound have others in the same forward."""
        timestep: torch.Tensor = given["timestep"][given["timestep_indices"][given["video_indices"][-1]]]
        return timestep

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        """Lay out the rows. The video to make is the last run of video rows of one timestep; others are conditions."""
        rows, indices = given["video_indices"], given["timestep_indices"]
        order = torch.arange(len(rows), device=rows.device)
        begins = torch.cat((order[:1] == 0, (rows.diff() != 1) | (indices[rows].diff() != 0)))
        first = (order * begins).max(dim=0, keepdim=True).values
        # A condition has the last row's place here, so that its own does not count.
        places = given["position_ids"][rows]
        places = torch.where((order < first).unsqueeze(1), places[-1], places)
        different = (places.sort(dim=0).values.diff(dim=0) != 0).sum(dim=0) + 1
        # All is read at once: on a GPU each reading waits for the step before.
        start, stop, frames, lines, columns = torch.cat((rows[first], rows[-1:] + 1, different)).tolist()
        behind = len(indices) - stop
        in_grid = frames * lines * columns == stop - start and not behind
        return Layout(behind, grid=(frames, lines, columns) if in_grid else None, before=start)

    def video_first(self, given: dict[str, Any], layout: Layout) -> dict[str, Any]:
        """Reorder the entries of all rows, and say where the rows of each kind are now."""
        rows = torch.arange(len(given["timestep_indices"]), device=given["timestep_indices"].device)
        order = layout.video_first(rows.unsqueeze(0))[0]
        place = order.argsort()
        of_rows = {name: given[name].index_select(0, order) for name in OF_ROWS}
        return given | of_rows | {name: place[given[name]] for name in WHERE}
