"""The attention operations, one a file."""

from adaspa.ops.attention_with_scores import attention_with_scores
from adaspa.ops.block_scores import block_scores
from adaspa.ops.block_sparse_attention import block_sparse_attention
from adaspa.ops.dense_attention import dense_attention
from adaspa.ops.keep_blocks import keep_blocks
from adaspa.ops.rotary import rotary

__all__ = [
    "attention_with_scores",
    "block_scores",
    "block_sparse_attention",
    "dense_attention",
    "keep_blocks",
    "rotary",
]
