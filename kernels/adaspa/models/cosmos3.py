"""Cosmos 3: a causal text, then video, sound and actions, whose queries see the text's keys beside their own."""

from math import prod
from typing import Any, ClassVar

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_cosmos3 import Cosmos3AttnProcessor, _rotate_half

from adaspa.layout import Layout
from adaspa.models.family import Family
from adaspa.models.processor import QKV, AdaSpaProcessor, norm_heads, project, project_text

Tables = tuple[torch.Tensor, ...]


class Cosmos3Processor(AdaSpaProcessor):
    """Attention of the generating part, in which several query heads share a key and a value.

    The text attends to itself as in the model. For the video it is rows in front, whose answers are left out: a
    sequence of ours has as many queries as keys.
    """

    def __call__(
        self, attn: Any, und_seq: torch.Tensor, gen_seq: torch.Tensor, rotary_emb: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Args: und_seq ``[text, C]``; gen_seq ``[other rows, C]``; rotary_emb cos and sin ``[S, D]`` of each."""
        text, of_text = _heads(attn, project(attn, und_seq)), rotary_emb[:2]
        rest = norm_heads(_heads(attn, project_text(attn, gen_seq)), attn.norm_added_q, attn.norm_added_k)
        query, key, value = norm_heads(text, attn.norm_q, attn.norm_k)
        key_of_rest = key if attn.k_norm_und_for_gen is None else attn.k_norm_und_for_gen(key)
        query, key, key_of_rest = (_rotated(x, of_text) for x in (query, key, key_of_rest))
        causal = dispatch_attention_fn(
            query, key, value, is_causal=True, enable_gqa=True, backend=self._attention_backend
        )
        before = (query, key_of_rest, value)
        behind = (*(_rotated(x, rotary_emb[2:]) for x in rest[:2]), rest[2])
        query, key, value = (torch.cat(pair, dim=1) for pair in zip(before, behind, strict=True))
        group = attn.num_key_value_groups
        key, value = (x.repeat_interleave(group, dim=2) for x in (key, value))
        out = self.attention([query, key, value])[0, len(und_seq) :]
        return attn.to_out(causal[0].flatten(1, 2)), attn.to_add_out(out)


def _heads(attn: Any, qkv: QKV) -> QKV:
    """``[S, H * D]`` as ``[1, S, H, D]``."""
    return [x.unflatten(-1, (-1, attn.head_dim)).unsqueeze(0) for x in qkv]


def _rotated(x: torch.Tensor, tables: Tables) -> torch.Tensor:
    """``[1, S, H, D]`` by cos and sin ``[S, D]``."""
    cos, sin = (table.unsqueeze(1) for table in tables)
    return x * cos + _rotate_half(x) * sin


class Cosmos3(Family):
    """`Cosmos3OmniTransformer`: its part that generates. The video is the last that has frames to be denoised."""

    processor = Cosmos3Processor
    originals = (Cosmos3AttnProcessor,)
    embeddings: ClassVar = {}
    outputs: ClassVar = {}

    def layers(self, transformer: Any) -> list[Any]:
        return [layer.self_attn for layer in transformer.layers]

    def heads(self, transformer: Any) -> int:
        heads: int = transformer.config.num_attention_heads
        return heads

    def latents(self, given: dict[str, Any]) -> torch.Tensor:
        latents: torch.Tensor = given["vision_tokens"][_video(given)]
        return latents

    def timestep(self, given: dict[str, Any]) -> torch.Tensor:
        timesteps: torch.Tensor = given["vision_timesteps"]
        return timesteps

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        video = _video(given)
        tokens = [prod(shape) for shape in given["vision_token_shapes"]]
        before = int(given["vision_sequence_indexes"][sum(tokens[:video])])
        return Layout(before=before, behind=given["sequence_length"] - before - tokens[video])


def _video(given: dict[str, Any]) -> int:
    """Find which of the forward's videos it is."""
    return max(number for number, noisy in enumerate(given["vision_noisy_frame_indexes"]) if len(noisy))
