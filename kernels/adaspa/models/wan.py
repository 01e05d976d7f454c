"""Wan 2.1 and 2.2: self-attention ``attn1`` over the video tokens. Cross-attention ``attn2`` stays as it is."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn

from adaspa.attention import attention
from adaspa.handle import AdaSpaHandle
from adaspa.models.opaque import layer_attention, register_site
from adaspa.state import Action

Rotary = tuple[torch.Tensor, torch.Tensor]


def self_attention_layers(transformer: torch.nn.Module) -> list[Any]:
    """The self-attention modules of a `WanTransformer3DModel`, in the order of its layers."""
    return [block.attn1 for block in transformer.blocks]  # type: ignore[union-attr]


class WanAdaSpaProcessor:
    """Self-attention of one layer of Wan.

    Args:
        original: the processor that was installed, to be put back by `adaspa.remove`.
        handle: the requests of the transformer.
        layer: index of the layer.

    Raises:
        ValueError: when the transformer runs with context parallelism.
    """

    def __init__(self, original: Any, handle: AdaSpaHandle, layer: int) -> None:
        self.original = original
        self.handle = handle
        self.layer = layer
        self.site = register_site(self)
        self._parallel_config = original._parallel_config

    @property
    def _attention_backend(self) -> Any:
        """The backend of the dense steps, which `set_attention_backend` sets on the installed processor."""
        return self.original._attention_backend

    @_attention_backend.setter
    def _attention_backend(self, backend: Any) -> None:
        self.original._attention_backend = backend

    @property
    def _parallel_config(self) -> None:
        """Where diffusers puts the settings of context parallelism; a pattern of part of the tokens would be wrong."""
        return

    @_parallel_config.setter
    def _parallel_config(self, config: Any) -> None:
        if config is not None:
            raise ValueError(
                "context parallelism must be off while AdaSpa is applied: adaspa.remove(transformer) first"
            )

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: Rotary | None = None,
    ) -> torch.Tensor:
        """Args: hidden_states ``[B, S, H * D]``; rotary_emb cos and sin ``[1, S, 1, D]``. Returns ``[B, S, H * D]``."""
        if encoder_hidden_states is not None or attention_mask is not None:
            raise ValueError("encoder_hidden_states and attention_mask must be None in the self-attention of Wan")
        query, key, value = _project(attn, hidden_states)
        if rotary_emb is not None:
            query, key = rotate(query, rotary_emb), rotate(key, rotary_emb)
        out = layer_attention(query, key, value, self.site)
        out = attn.to_out[0](out.flatten(2, 3).type_as(query))
        return attn.to_out[1](out)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """The attention of the current step, ``[B, S, H, D]``; a plain dense step is diffusers' own."""
        state = self.handle.state
        if state is None or state.action(self.layer) is Action.DENSE:
            return dispatch_attention_fn(q, k, v, backend=self._attention_backend)
        # [B, S, H, D] seen as [B, H, S, D]: the operations take any strides.
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return attention(q, k, v, state, layer=self.layer).transpose(1, 2)


def rotate(x: torch.Tensor, rotary_emb: Rotary) -> torch.Tensor:
    """Rotary embedding of ``[B, S, H, D]`` in interleaved pairs; cos and sin hold each angle twice."""
    cos, sin = (table[..., ::2] for table in rotary_emb)
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).type_as(x)


def _project(attn: Any, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value ``[B, S, H, D]``, from the fused projection where the model has been fused."""
    if attn.fused_projections:
        query, key, value = attn.to_qkv(hidden_states).chunk(3, dim=-1)
    else:
        query, key, value = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
    heads = (attn.heads, -1)
    return attn.norm_q(query).unflatten(2, heads), attn.norm_k(key).unflatten(2, heads), value.unflatten(2, heads)
