"""Unevenness of a pattern: how unlike are the shares of their mass that a head's queries keep. Seen on a few blocks."""

import math
from typing import NamedTuple

import torch

from adaspa import ops
from adaspa.index import BlockIndex
from adaspa.selection import Geometry

SAMPLES = 8
"""Number of query blocks of a long sequence that are looked at, about."""
STEP = 4
"""Distance between two of them at least, so that a short sequence has fewer."""
LEAST = 1e-6
"""Share that counts for a query that keeps less of its mass."""


class Probe(NamedTuple):
    """Unevenness of each head, and the work that it took.

    A query keeps a share of its softmax mass. Attention divides by it, which mends much where all keep equal shares,
    and nothing for a query that loses the one key it looks at.

    Args:
        unevenness: log of the mean share that a head's queries keep, minus the mean of its log, ``[B, H]``: 0 where all
            keep the same.
        pairs: of queries and keys that the sample's dense attention would have, over batch and heads.
        share: of them that were computed, ``[B, H]``.
    """

    unevenness: torch.Tensor
    pairs: int
    share: torch.Tensor


def probe(
    qkv: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    lse: torch.Tensor,
    index: BlockIndex,
    geometry: Geometry,
    scale: float | None,
) -> Probe | None:
    """Attend by ``index`` from some whole blocks of video queries; None if there is no such block.

    Args:
        qkv: queries, keys and values, ``[B, H, S, D]`` each.
        lse: of their dense attention, ``[B, H, S]``.
    """
    q, k, v = qkv
    blocks = sampled(geometry)
    if not len(blocks):
        return None
    taken = slice(blocks.start, blocks.stop, blocks.step)
    some, whole = (_blocks(x, geometry, taken).flatten(2, 3) for x in (q, lse))
    part = BlockIndex(
        index.ids[:, :, taken].contiguous(),
        index.counts[:, :, taken].contiguous(),
        index.query_block,
        index.key_block,
        some.shape[2],
        index.key_tokens,
    )
    _, kept = ops.block_sparse_attention(some, k, v, part, scale=scale)
    share = (kept - whole).clamp(min=math.log(LEAST), max=0)
    unevenness = share.exp().mean(2).log() - share.mean(2)
    return Probe(unevenness, q.shape[0] * q.shape[1] * some.shape[2] * k.shape[2], part.head_share())


def sampled(geometry: Geometry) -> range:
    """Query blocks that are looked at: evenly spaced, whole, and without text."""
    first, last = 0, geometry.tokens // geometry.query_block
    text = geometry.query_text
    if len(text):
        first, last = (text.stop, last) if text.start == 0 else (0, min(last, text.start))
    step = max(STEP, (last - first) // SAMPLES)
    return range(first + min(step // 2, max(0, last - first - 1)), last, step)


def _blocks(x: torch.Tensor, geometry: Geometry, taken: slice) -> torch.Tensor:
    """Some of the whole blocks of ``[B, H, S, ...]``: ``[B, H, blocks, tokens, ...]``."""
    whole = geometry.tokens // geometry.query_block
    return x[:, :, : whole * geometry.query_block].unflatten(2, (whole, geometry.query_block))[:, :, taken]
