"""References, by the name of the operation."""

from adaspa.ops.reference.add_residual import add_residual
from adaspa.ops.reference.attention_with_block_mass import attention_with_block_mass, dense_attention
from adaspa.ops.reference.block_mass import block_mass
from adaspa.ops.reference.block_sparse_attention import block_sparse_attention
from adaspa.ops.reference.keep_blocks import keep_blocks
from adaspa.ops.reference.rotary import rotary
from adaspa.ops.reference.round_rows import round_rows

__all__ = [
    "add_residual",
    "attention_with_block_mass",
    "block_mass",
    "block_sparse_attention",
    "dense_attention",
    "keep_blocks",
    "rotary",
    "round_rows",
]
