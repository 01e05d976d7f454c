"""Dense attention in the place of AdaSpa, for an SGLang that it was not tested with.

`adaspa.plugins.sglang` begins with it, and comes back to it where AdaSpa cannot serve a call.
"""

import functools
import logging
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

import torch
from sglang.multimodal_gen.runtime.layers.attention.backends.attention_backend import (
    AttentionBackend,
    AttentionImpl,
    AttentionMetadata,
    AttentionMetadataBuilder,
)
from sglang.multimodal_gen.runtime.platforms import AttentionBackendEnum, current_platform
from sglang.multimodal_gen.runtime.platforms.plugins import HookRegistry, HookType
from sglang.multimodal_gen.runtime.utils.precision import get_compute_dtype

logger = logging.getLogger(__name__)

TAKEN = AttentionBackendEnum.RAIN_FUSION_ATTN


class DenseImpl(AttentionImpl):
    """One attention layer by the backend that the server takes by default."""

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        softmax_scale: float,
        causal: bool = False,
        num_kv_heads: int | None = None,
        prefix: str = "",
        **others: Any,
    ) -> None:
        default = resolve_name(current_platform.get_attn_backend_cls_str(None, head_size, get_compute_dtype()))
        self.server = f"sglang: {default.get_enum()}"
        self.scale, self.causal, self.prefix = softmax_scale, causal, prefix
        self.dense = default.get_impl_cls()(
            num_heads=num_heads,
            head_size=head_size,
            softmax_scale=softmax_scale,
            causal=causal,
            num_kv_heads=num_kv_heads,
            prefix=prefix,
            **others,
        )

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_metadata: Any) -> torch.Tensor:
        """Attention over ``[B, S, H, D]``."""
        return self.dense.forward(query, key, value, attn_metadata)

    def forward_varlen(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **packed: Any
    ) -> torch.Tensor:
        """Attention over sequences packed into ``[S, H, D]``."""
        return self.dense.forward_varlen(query, key, value, **packed)


class DenseMetadataBuilder(AttentionMetadataBuilder):
    """Builder that the server asks for whatever the backend needs."""

    def build(self, current_timestep: int, **others: Any) -> AttentionMetadata:
        return AttentionMetadata(current_timestep)


class DenseBackend(AttentionBackend):
    """Backend that the server finds."""

    accept_output_buffer = True

    @staticmethod
    def get_enum() -> AttentionBackendEnum:
        return TAKEN

    @staticmethod
    def get_impl_cls() -> type[AttentionImpl]:
        return DenseImpl

    @staticmethod
    def get_metadata_cls() -> type[AttentionMetadata]:
        return AttentionMetadata

    @staticmethod
    def get_builder_cls() -> type[AttentionMetadataBuilder]:
        return DenseMetadataBuilder


def register(backend: type[AttentionBackend] = DenseBackend) -> bool:
    """Have who asks for ``rain_fusion_attn`` get ``backend``; False on an NPU, where it stays what it is."""
    if current_platform.is_npu():
        logger.warning("AdaSpa leaves %s as it is: this is an NPU", TAKEN)
        return False
    platform = next(kind for kind in type(current_platform).__mro__ if "get_attn_backend_cls_str" in vars(kind))
    name = f"{backend.__module__}.{backend.__qualname__}"
    target = f"{platform.__module__}.{platform.__qualname__}.get_attn_backend_cls_str"
    HookRegistry.register(target, functools.partial(_choose, name), HookType.AROUND)
    return True


def _choose(name: str, choose: Callable[..., str], platform: Any, selected_backend: Any, *others: Any) -> str:
    return name if selected_backend is TAKEN else choose(platform, selected_backend, *others)
