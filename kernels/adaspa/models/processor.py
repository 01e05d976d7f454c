"""Attention processor that every model family shares: dense or sparse by step, over video and text tokens."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _AttentionBackendRegistry,
    dispatch_attention_fn,
)

from adaspa import ops
from adaspa.attention import attention, attention_by_pattern
from adaspa.bound import Bound
from adaspa.models.opaque import layer_attention, register_site
from adaspa.parallel.ranks import check_kind
from adaspa.state import Action

if TYPE_CHECKING:
    from adaspa.forward import Forward
    from adaspa.handle import AdaSpaHandle

QKV = list[torch.Tensor]
"""Query, key and value. Attention empties the list: what nobody else holds then takes no memory while it runs."""


class AdaSpaProcessor(Bound):
    """Self-attention of one layer. A family adds ``__call__``: its projections, norms and rotary embedding.

    Args:
        original: the processor that was installed, to be put back by `adaspa.remove`.
        handle: the requests of the transformer.
        layer: index of the layer.

    Raises:
        ValueError: when the transformer runs with a context parallelism that leaves no rank whole rows of attention.
    """

    def __init__(self, original: Any, handle: "AdaSpaHandle", layer: int) -> None:
        self.original = original
        self.handle = handle
        self.layer = layer
        self.site = register_site(self)
        self._parallel_config = self._parallel_config

    @property
    def _attention_backend(self) -> Any:
        """Backend of the dense steps, which `set_attention_backend` sets on the installed processor."""
        return getattr(self.original, "_attention_backend", None)

    @_attention_backend.setter
    def _attention_backend(self, backend: Any) -> None:
        self.original._attention_backend = backend

    @property
    def backend_is_chosen(self) -> bool:
        """True where the model, the context (`attention_backend`) or the environment names a backend of diffusers."""
        active, _ = _AttentionBackendRegistry.get_active_backend()
        return self._attention_backend is not None or active != AttentionBackendName.NATIVE

    @property
    def _backend_name(self) -> str:
        """Backend of diffusers that runs dense steps, if one is chosen."""
        active, _ = _AttentionBackendRegistry.get_active_backend()
        return AttentionBackendName(self._attention_backend or active).value

    @property
    def _parallel_config(self) -> Any:
        """Settings of context parallelism, which diffusers puts here, for attention that stays as it was."""
        return getattr(self.original, "_parallel_config", None)

    @_parallel_config.setter
    def _parallel_config(self, config: Any) -> None:
        if (context := getattr(config, "context_parallel_config", None)) is not None:
            check_kind(context)
        if hasattr(self.original, "_parallel_config"):
            self.original._parallel_config = config

    def attention(self, qkv: QKV) -> torch.Tensor:
        """``[B, S, H, D]`` each to ``[B, S, H * D]``."""
        out: torch.Tensor = layer_attention(qkv, [], self.site)
        return out.flatten(2, 3)

    def joint_attention(self, video: QKV, text: QKV) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention over video and text tokens together, ``[B, S, H, D]`` each to ``[B, S, H * D]`` each.

        The video comes first whatever the model's own order: its blocks then start where the video starts.
        """
        tokens = [video[0].shape[1], text[0].shape[1]]
        out_video, out_text = layer_attention(video, text, self.site).flatten(2, 3).split(tokens, dim=1)
        return out_video, out_text

    def attend(self, qkv: QKV, text: QKV) -> torch.Tensor:
        """Compute the attention of the current step over the valid tokens, ``[B, S, H, D]``; padded text gets zeros.

        Its blocks start where the video starts, whatever stands before it. The text, if any, is behind it.
        """
        forward = self.handle.forward
        if forward is None:
            raise RuntimeError(
                "the transformer was called past AdaSpa's hook, which has to see each of its forwards: what replaces "
                "its forward, or its hooks, must come before adaspa.apply (which adaspa.remove undoes)"
            )
        if forward.share is None:
            return self._in_order(forward, [joined(qkv.pop(0), x) for x in text] if text else qkv)
        exchange = forward.share.exchange(forward.state, self.layer, qkv[0])
        out = self._in_order(replace(forward, heads=exchange.heads), exchange.to_heads(qkv, text))
        return exchange.to_tokens(out)

    def _in_order(self, forward: "Forward", qkv: QKV) -> torch.Tensor:
        """Attention over a whole sequence in the model's own order."""
        layout = forward.layout
        if layout.before and layout.pattern is None and forward.state.action(self.layer) is Action.DENSE:
            # Neither blocks nor an LSE for them come of it: the rows stay where they are.
            layout = layout._replace(before=0)
            forward = replace(forward, layout=layout)
        q, k, v = [layout.video_first(qkv.pop(0)) for _ in range(3)]
        return layout.as_it_was(self._over_valid(forward, q, k, v))

    def _over_valid(self, forward: "Forward", q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Attention over the valid tokens of each sample, the video first."""
        layout = forward.layout
        others = q.shape[1] - layout.text_tokens
        video, lengths = others - layout.before - layout.behind, layout.text_lengths
        if lengths is None or min(lengths) == layout.text_tokens:
            return self._attend(forward, [q, k, v], video)
        if len(set(lengths)) == 1:
            parts: list[tuple[slice, int | None]] = [(slice(None), None)]
        else:
            # Text of different lengths: each sample has a sequence, and blocks, of its own.
            parts = [(slice(sample, sample + 1), sample) for sample in range(len(lengths))]
        out = torch.empty_like(q)
        for rows, sample in parts:
            stop = others + lengths[sample or 0]
            out[rows, :stop] = self._attend(forward, [x[rows, :stop] for x in (q, k, v)], video, sample)
            out[rows, stop:] = 0
        return out

    def _attend(self, forward: "Forward", qkv: QKV, video: int, sample: int | None = None) -> torch.Tensor:
        """Attention over the whole of a sequence; plain dense steps by the backend of diffusers that was chosen."""
        state, layout, (q, k, v) = forward.state, forward.layout, qkv
        if layout.pattern is not None:
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            return attention_by_pattern(q, k, v, state, layout.pattern(q, k), layer=self.layer).transpose(1, 2)
        state.skip_if_short(q.transpose(1, 2), forward.heads.total(q.shape[2]))
        if self.backend_is_chosen and state.action(self.layer, sample) is Action.DENSE:
            heads = forward.heads.total(q.shape[2])
            state.ran_elsewhere(q, f"diffusers: {self._backend_name}", self.layer, heads, sample)
            return dispatch_attention_fn(q, k, v, backend=self._attention_backend)
        # [B, S, H, D] seen as [B, H, S, D]: the operations take any strides.
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        text = (video, q.shape[2]) if video < q.shape[2] else None
        out = attention(
            q, k, v, state, layer=self.layer, text=text, sample=sample, grid=layout.grid, heads=forward.heads
        )
        return out.transpose(1, 2)


def joined(video: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Return ``[B, S, ...]`` with the rows of both, as a view if they follow each other in memory."""
    end = video.storage_offset() + video.shape[1] * video.stride(1)
    same = video.untyped_storage().data_ptr() == text.untyped_storage().data_ptr()
    if same and video.stride() == text.stride() and text.storage_offset() == end:
        return video.as_strided((video.shape[0], video.shape[1] + text.shape[1], *video.shape[2:]), video.stride())
    return torch.cat((video, text), dim=1)


def project(attn: Any, x: torch.Tensor) -> QKV:
    """Query, key and value ``[B, S, H * D]``, from the fused projection where the model has been fused."""
    if getattr(attn, "fused_projections", False):
        return list(attn.to_qkv(x).chunk(3, dim=-1))
    return [attn.to_q(x), attn.to_k(x), attn.to_v(x)]


def project_text(attn: Any, x: torch.Tensor) -> QKV:
    """Query, key and value of text tokens that have projections of their own, ``[B, S, H * D]``."""
    return [attn.add_q_proj(x), attn.add_k_proj(x), attn.add_v_proj(x)]


def project_out(attn: Any, x: torch.Tensor) -> torch.Tensor:
    """Apply the output projection and the dropout behind it: ``[B, S, H * D]`` to ``[B, S, C]``."""
    return attn.to_out[1](attn.to_out[0](x))


def rotate(qkv: QKV, tables: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Turn query and key ``[B, S, H, D]`` in their places, by cos and sin ``[S, D]``, which hold each angle twice."""
    cos, sin = (table[:, ::2] for table in tables)
    for place in range(2):
        qkv[place] = ops.rotary(qkv[place], cos, sin)


def rotate_apart(x: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotary embedding of ``[B, S, H, D]`` by cos and sin ``[B, S, H * D]``, angles for each head, each held twice."""
    cos, sin = (table[..., ::2].unflatten(2, (x.shape[2], -1)).expand(x.shape[0], -1, -1, -1) for table in tables)
    return ops.rotary(x, cos, sin)


def split_heads(attn: Any, qkv: QKV) -> QKV:
    """``[B, S, H * D]`` as ``[B, S, H, D]``."""
    return [x.unflatten(2, (attn.heads, -1)) for x in qkv]


def norm_heads(qkv: QKV, norm_q: Any, norm_k: Any) -> QKV:
    """Norm query and key in their places, if the model has norms for them."""
    for place, norm in enumerate((norm_q, norm_k)):
        if norm is not None:
            qkv[place] = norm(qkv[place])
    return qkv
