"""Kernels of the Hopper backend, by the name of the operation."""

from adaspa.ops.hopper.attention import attention, attention_with_block_mass, block_sparse_attention, dense_attention
from adaspa.ops.hopper.block_mass import block_mass

__all__ = ["attention", "attention_with_block_mass", "block_mass", "block_sparse_attention", "dense_attention"]
