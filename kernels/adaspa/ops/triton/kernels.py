"""Kernels of the Triton backend, by the name of the operation."""

from adaspa.ops.triton.add_residual import add_residual
from adaspa.ops.triton.attention_with_block_mass import attention_with_block_mass
from adaspa.ops.triton.block_mass import block_mass
from adaspa.ops.triton.block_sparse_attention import block_sparse_attention
from adaspa.ops.triton.keep_blocks import keep_blocks
from adaspa.ops.triton.rotary import rotary
from adaspa.ops.triton.round_rows import round_rows

__all__ = [
    "add_residual",
    "attention_with_block_mass",
    "block_mass",
    "block_sparse_attention",
    "keep_blocks",
    "rotary",
    "round_rows",
]
