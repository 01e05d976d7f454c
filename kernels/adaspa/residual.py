"""Residual of sparse attention: what dense attention had beside it at the search, put back in the steps behind."""

import torch

from adaspa import ops
from adaspa.index import BlockIndex
from adaspa.selection.scored import pooled

FADING = 0.985
"""Share of a residual that is put back after each fiftieth of the denoising: chosen by trials on the demo model."""


def fading(share: float) -> float:
    """Weight of a residual that was seen this share of the denoising ago."""
    return float(FADING ** (50 * share))


def mean_residual(
    qkv: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    dense: torch.Tensor,
    index: BlockIndex,
    scale: float | None,
    query_stride: int = 1,
) -> torch.Tensor:
    """Average over each ``key_block`` of queries what their dense output has beside that of the index.

    The error of sparse attention hardly changes from step to step, so that it adds up over the denoising. What
    neighbouring queries share of it is most of it, and lasts longest. DiTFastAttn (arXiv 2406.08552) keeps the residual
    of a window token by token; the mean takes ``key_block`` times less memory.

    Args:
        qkv: queries, keys and values, ``[B, H, S, D]`` each.
        dense: output of their dense attention, ``[B, H, S, D]``.
        index: the pattern.
        scale: factor of q.k; ``D ** -0.5`` by default.
        query_stride: rows from one compared query to the next; at least 16 of a query block are compared.

    Returns:
        ``[B, H, blocks, D]`` in the dtype of q; zeros where an output is not finite.
    """
    q, k, v = qkv
    some, few, rows = q[:, :, ::query_stride], dense[:, :, ::query_stride], index.query_block // query_stride
    part = BlockIndex(index.ids, index.counts, rows, index.key_block, some.shape[2], index.key_tokens)
    sparse, _ = ops.block_sparse_attention(some, k, v, part, scale=scale)
    block = index.key_block // query_stride
    return (pooled(few, block) - pooled(sparse, block)).nan_to_num_(0.0, 0.0, 0.0).to(q.dtype)


def add_residual(out: torch.Tensor, residual: torch.Tensor, block: int, weight: float) -> None:
    """Add to the output of each query the residual of its block, in place.

    Args:
        out: ``[B, H, S, D]``.
        residual: ``[B, H, blocks, D]``.
        block: queries in a block; the last one may be partial.
        weight: of the residual.
    """
    whole = out.shape[2] // block
    out[:, :, : whole * block].unflatten(2, (whole, block)).add_(residual[:, :, :whole].unsqueeze(3), alpha=weight)
    out[:, :, whole * block :].add_(residual[:, :, whole:], alpha=weight)
