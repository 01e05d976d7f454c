"""Attention of rounded q, k and v, by the references of full precision.

A kernel rounds the exponentials to e4m3, too, as they are relative to the largest of its row so far: an error of 2.5 %
of each, with either sign, that depends on the order of the tiles and is left out here.
"""

import torch

from adaspa.index import BlockIndex
from adaspa.ops.reference import kernels as reference
from adaspa.ops.reference_eight.rounding import rounded, rounded_values


def block_sparse_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, index: BlockIndex, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`adaspa.ops.block_sparse_attention`."""
    near = rounded(q, k)
    out, lse = reference.block_sparse_attention(near.q, near.k, rounded_values(v), index, scale)
    return out.to(q.dtype), lse + near.offsets * scale


def dense_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`adaspa.ops.dense_attention`."""
    near = rounded(q, k)
    out, lse = reference.dense_attention(near.q, near.k, rounded_values(v), scale)
    return out.to(q.dtype), lse + near.offsets * scale


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """`adaspa.ops.attention`."""
    return dense_attention(q, k, v, scale)[0]


def block_mass(
    q: torch.Tensor,
    k: torch.Tensor,
    lse: torch.Tensor,
    query_block: int,
    key_block: int,
    scale: float,
    query_stride: int,
) -> torch.Tensor:
    """`adaspa.ops.block_mass`; the rows between those that are scored are not looked at."""
    near = rounded(q[:, :, ::query_stride], k)
    lse = lse[:, :, ::query_stride] - near.offsets * scale
    return reference.block_mass(near.q, near.k, lse, query_block // query_stride, key_block, scale, 1)
