"""Kernels of the Hopper backend of eight bits, by the name of the operation."""

from adaspa.ops.hopper_eight.attention import attention, block_sparse_attention, dense_attention
from adaspa.ops.hopper_eight.block_mass import block_mass

__all__ = ["attention", "block_mass", "block_sparse_attention", "dense_attention"]
