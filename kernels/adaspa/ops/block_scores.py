"""Block weights from a cached LSE, without the attention: the LSE-cached search (section 4.2)."""

from __future__ import annotations

import torch

from adaspa.index import num_blocks
from adaspa.ops.attention_with_scores import query_chunks, sum_blocks
from adaspa.ops.check import check_blocks, check_lse, check_qk, softmax_scale
from adaspa.ops.dispatch import uses_triton


def block_scores(
    q: torch.Tensor,
    k: torch.Tensor,
    lse: torch.Tensor,
    *,
    block: int = 64,
    query_block: int | None = None,
    scale: float | None = None,
    every: int = 1,
) -> torch.Tensor:
    """The softmax mass inside each block, ``sum of exp(q_r . k_j * scale - lse_r)`` over its rows and columns.

    With ``every`` above 1 only the rows r that it divides are summed, for that fraction of the work: the shares of a
    row of weights are then estimates.

    Args:
        q: ``[B, H, Sq, D]``, any strides.
        k: ``[B, H, Sk, D]``.
        lse: natural-log LSE ``[B, H, Sq]``; from an earlier denoising step it makes the rows sum to about, not exactly,
            their number of query rows.
        block: tokens in a key block.
        query_block: tokens in a query block, a multiple of ``block``; as many as in a key block by default.
        scale: factor of q.k; ``D ** -0.5`` by default.
        every: score every so many-th query row of a block; a divisor of ``block``.

    Returns:
        weights fp32 ``[B, H, nq, nk]``.

    Raises:
        ValueError: when shapes, dtypes or devices do not match, or a block is not supported.
    """
    check_qk(q, k)
    check_lse(lse, q)
    query_block = check_blocks(block, query_block)
    if not isinstance(every, int) or every < 1 or block % every:
        raise ValueError(f"every must be a divisor of block={block}, got {every!r}")
    scale = softmax_scale(scale, q)
    if uses_triton(q):
        from adaspa.ops.kernels.block_scores import block_scores as kernel  # noqa: PLC0415 - works without Triton

        return kernel(q, k, lse, query_block, block, scale, every)
    return reference(q, k, lse, query_block=query_block, block=block, scale=scale, every=every)


def reference(
    q: torch.Tensor, k: torch.Tensor, lse: torch.Tensor, *, query_block: int, block: int, scale: float, every: int = 1
) -> torch.Tensor:
    """The operation in PyTorch, a bounded chunk of query blocks at a time."""
    q, lse, block_rows = q[:, :, ::every], lse[:, :, ::every], query_block // every
    key_t = k.float().transpose(-1, -2)
    weights = torch.empty(
        *q.shape[:2],
        num_blocks(q.shape[2], block_rows),
        num_blocks(k.shape[2], block),
        dtype=torch.float32,
        device=q.device,
    )
    for start, stop in query_chunks(q, k, block_rows):
        scores = (q[:, :, start:stop].float() * scale) @ key_t
        mass = scores.sub_(lse[:, :, start:stop].unsqueeze(-1)).exp_()
        weights[:, :, start // block_rows : num_blocks(stop, block_rows)] = sum_blocks(mass, block_rows, block)
    return weights
