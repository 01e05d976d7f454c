"""Kernels of the Hopper backend of eight bits, by the name of the operation."""

import torch

from adaspa.index import BlockIndex
from adaspa.ops.hopper_eight import attention as tiled
from adaspa.ops.hopper_eight import paired
from adaspa.ops.hopper_eight.attention import attention, dense_attention
from adaspa.ops.hopper_eight.block_mass import block_mass

__all__ = ["attention", "block_mass", "block_sparse_attention", "dense_attention"]


def block_sparse_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, index: BlockIndex, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and LSE over the listed key blocks."""
    kernel = paired if index.query_block == paired.QUERY_BLOCK else tiled
    return kernel.block_sparse_attention(q, k, v, index, scale)
