"""HunyuanVideo: joint attention over video and text, in two-stream blocks and then in single-stream blocks."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoAttnProcessor2_0

from adaspa.layout import Layout
from adaspa.models.family import Family, patch_grid
from adaspa.models.plans import GATHERED, rotary, split_behind
from adaspa.models.processor import (
    QKV,
    AdaSpaProcessor,
    norm_heads,
    project,
    project_out,
    project_text,
    rotate,
    split_heads,
)
from adaspa.models.tile_order import along


class HunyuanVideoProcessor(AdaSpaProcessor):
    """Norms over each head, rotary embedding of the video; a single-stream block has no projections for the text."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Args: hidden_states, encoder_hidden_states ``[B, S, H * D]``; the mask is in the layout of the forward."""
        if attn.add_q_proj is None:
            video, text = _together(attn, (hidden_states, encoder_hidden_states), image_rotary_emb)
        else:
            video = norm_heads(split_heads(attn, project(attn, hidden_states)), attn.norm_q, attn.norm_k)
            if image_rotary_emb is not None:
                rotate(video, image_rotary_emb)
            text = split_heads(attn, project_text(attn, encoder_hidden_states))
            norm_heads(text, attn.norm_added_q, attn.norm_added_k)
        video_out, text_out = self.joint_attention(video, text)
        if attn.to_out is not None:
            video_out = project_out(attn, video_out)
        if attn.to_add_out is not None:
            text_out = attn.to_add_out(text_out)
        return video_out, text_out


def _together(
    attn: Any, streams: tuple[torch.Tensor, torch.Tensor], tables: tuple[torch.Tensor, torch.Tensor] | None
) -> list[QKV]:
    """Query, key and value of video and of text, ``[B, S, H, D]`` each, by the same projections and norms."""
    video, text = (x.shape[1] for x in streams)
    qkv = norm_heads(split_heads(attn, project(attn, torch.cat(streams, dim=1))), attn.norm_q, attn.norm_k)
    if tables is not None:  # the text is turned by no angle
        cos, sin = (F.pad(table, (0, 0, 0, text), value=still) for table, still in zip(tables, (1, 0), strict=True))
        rotate(qkv, (cos, sin))
    return [list(part) for part in zip(*(x.split((video, text), dim=1) for x in qkv), strict=True)]


class HunyuanVideo(Family):
    """`HunyuanVideoTransformer3DModel`: the padding of the text is behind its valid tokens."""

    processor = HunyuanVideoProcessor
    originals = (HunyuanVideoAttnProcessor2_0,)
    embeddings: ClassVar = {"x_embedder": along(-2), "rope": along(-2)}

    def layers(self, transformer: Any) -> list[Any]:
        return [block.attn for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks)]

    def plan(self, transformer: Any) -> dict[str, Any] | None:
        if transformer.config.get("image_condition_type") == "token_replace":
            return None  # it modulates the first frame by its place in front
        return {"x_embedder": {0: split_behind(3, 1)}, "rope": rotary(2), **GATHERED}

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        mask = given["encoder_attention_mask"]
        config = transformer.config
        grid = patch_grid(given["hidden_states"], config.patch_size_t, config.patch_size, config.patch_size)
        # With token_replace the model tells the first frame by its place in front.
        in_place = config.image_condition_type == "token_replace"
        lengths = tuple(mask.sum(dim=1, dtype=torch.int).tolist())
        return Layout(mask.shape[1], lengths, None if in_place else grid)
