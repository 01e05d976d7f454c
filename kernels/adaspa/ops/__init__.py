"""Attention operations, one a file; `backends` says which kernel runs each."""

from adaspa.ops.add_residual import add_residual
from adaspa.ops.attention import attention
from adaspa.ops.attention_with_block_mass import attention_with_block_mass
from adaspa.ops.block_mass import block_mass
from adaspa.ops.block_sparse_attention import block_sparse_attention
from adaspa.ops.dense_attention import dense_attention
from adaspa.ops.keep_blocks import keep_blocks
from adaspa.ops.rotary import rotary
from adaspa.ops.round_rows import round_rows

__all__ = [
    "add_residual",
    "attention",
    "attention_with_block_mass",
    "block_mass",
    "block_sparse_attention",
    "dense_attention",
    "keep_blocks",
    "rotary",
    "round_rows",
]
