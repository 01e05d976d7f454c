"""The heaviest blocks of each row of block weights, straight to the lists of a block index."""

from __future__ import annotations

import torch

from adaspa.ops.dispatch import triton_runs_on

LEAST_MASS = 1e-30
"""A row of weights sums to about its number of query rows; from less than this no shares can be told."""


def keep_blocks(
    weights: torch.Tensor, limits: torch.Tensor, *, by_mass: bool, text: range, text_rows: range, width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The heaviest key blocks of each row, of equal ones the first; blocks of ``text`` before all others.

    A row whose sum is NaN, infinite or next to nothing tells nothing of its blocks, and keeps everything.

    Args:
        weights: fp32 ``[B, H, nq, nk]``, none negative.
        limits: fp32 ``[B, H]``: the number of blocks that each row keeps, or with ``by_mass`` the share of its mass
            that the fewest blocks are to hold.
        by_mass: what limits are.
        text: the key blocks that every row keeps.
        text_rows: the query blocks that keep everything.
        width: entries of a list; 0 where only counts and shares are wanted. Blocks beyond it are not listed.

    Returns:
        ids int16 ``[B, H, nq, width]`` in ascending order, padded with 0, not written for rows that keep everything;
        counts int32 ``[B, H, nq]``; and the share of each row's mass that it keeps, fp32 ``[B, H, nq]``.
    """
    weights = weights.float()
    if triton_runs_on(weights):
        from adaspa.ops.kernels.keep_blocks import keep_blocks as kernel  # noqa: PLC0415 - works without Triton

        return kernel(weights, limits, by_mass, [text.start, text.stop, text_rows.start, text_rows.stop], width)
    return reference(weights, limits, by_mass=by_mass, text=text, text_rows=text_rows, width=width)


def reference(
    weights: torch.Tensor, limits: torch.Tensor, *, by_mass: bool, text: range, text_rows: range, width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The operation in PyTorch, by sorting every row."""
    nk = weights.shape[-1]
    mass = weights.sum(-1)
    shares = weights / mass.unsqueeze(-1)
    ranking = shares.clone()
    ranking[..., text.start : text.stop] = torch.inf
    ranked = ranking.argsort(dim=-1, descending=True, stable=True)
    limits = limits[..., None]
    ordered = shares.gather(-1, ranked)
    if by_mass:
        before = ordered.cumsum(-1) - ordered
        counts = (before < limits[..., None]).sum(-1).clamp(min=max(1, len(text)))
    else:
        counts = limits.long().expand(weights.shape[:3]).clone()
    counts[..., text_rows.start : text_rows.stop] = nk
    counts.masked_fill_(~((mass > LEAST_MASS) & (mass < torch.inf)), nk)
    kept = torch.arange(nk, device=weights.device) < counts.unsqueeze(-1)
    share = torch.where(counts == nk, 1.0, (ordered * kept).sum(-1))
    ids = torch.where(kept & (counts < nk).unsqueeze(-1), ranked, nk).sort(dim=-1).values[..., :width]
    return ids.masked_fill(ids == nk, 0).to(torch.int16), counts.int(), share
