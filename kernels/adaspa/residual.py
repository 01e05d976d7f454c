"""Residual of sparse attention: what dense attention had beside it at the search, put back in the steps behind."""

import torch

from adaspa import ops
from adaspa.index import BlockIndex
from adaspa.ops.call import Precision
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
    precision: Precision = "full",
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
        precision: of the products in the sparse steps behind.

    Returns:
        ``[B, H, blocks, D]`` in the dtype of q, within its range; zeros where an output is not finite.
    """
    # All queries: a part of each block leaves the tiles of the kernel empty, and takes no less time.
    sparse, _ = ops.block_sparse_attention(*qkv, index, scale=scale, precision=precision)
    missing = pooled(dense, index.key_block) - pooled(sparse, index.key_block)
    range_ = torch.finfo(dense.dtype)
    return missing.nan_to_num_(0.0, 0.0, 0.0).clamp_(range_.min, range_.max).to(dense.dtype)
