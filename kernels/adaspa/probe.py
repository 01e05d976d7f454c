"""What a pattern costs in detail: its output on a few query blocks against the dense output of its search."""

from typing import NamedTuple

import torch

from adaspa import ops
from adaspa.index import BlockIndex
from adaspa.selection import Geometry

SAMPLES = 8
"""About as many query blocks of a long sequence are looked at."""
AT_MOST = 4
"""Of a short one, one block of so many."""
NEIGHBOURS = 64


class Probe(NamedTuple):
    """What was seen of each head.

    Args:
        error: squared difference between the outputs, without what 64 neighbouring tokens share of it, ``[B, H]``.
        size: of the dense output, squared, ``[B, H]``.
        pairs: of queries and keys that the sample's dense attention would have, over batch and heads.
        share: of them that were computed, ``[B, H]``.
    """

    error: torch.Tensor
    size: torch.Tensor
    pairs: int
    share: torch.Tensor

    def detail_error(self) -> torch.Tensor:
        """The error in relation to the output, over all heads, ``[B]``."""
        return (self.error.sum(-1) / self.size.sum(-1).clamp(min=1e-30)).sqrt()


def probe(
    qkv: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    dense: torch.Tensor,
    index: BlockIndex,
    geometry: Geometry,
    scale: float | None,
) -> Probe | None:
    """Attend by ``index`` from some whole blocks of video queries; None if there is no such block.

    Args:
        qkv: queries, keys and values, ``[B, H, S, D]`` each.
        dense: their dense attention.
    """
    q, k, v = qkv
    blocks = sampled(geometry)
    if not len(blocks):
        return None
    taken = slice(blocks.start, blocks.stop, blocks.step)
    some, wanted = (_blocks(x, geometry, taken).flatten(2, 3) for x in (q, dense))
    part = BlockIndex(
        index.ids[:, :, taken].contiguous(),
        index.counts[:, :, taken].contiguous(),
        index.query_block,
        index.key_block,
        some.shape[2],
        index.key_tokens,
    )
    out, _ = ops.block_sparse_attention(some, k, v, part, scale=scale)
    neighbours = min(NEIGHBOURS, geometry.query_block)
    error = (out.float() - wanted.float()).unflatten(2, (-1, neighbours))
    detail = error - error.mean(3, keepdim=True)
    pairs = q.shape[0] * q.shape[1] * some.shape[2] * k.shape[2]
    return Probe(detail.square().sum((2, 3, 4)), wanted.float().square().sum((2, 3)), pairs, part.head_share())


def sampled(geometry: Geometry) -> range:
    """The query blocks that are looked at: evenly spaced, whole, and without text."""
    first, last = 0, geometry.tokens // geometry.query_block
    text = geometry.query_text
    if len(text):
        first, last = (text.stop, last) if text.start == 0 else (0, min(last, text.start))
    step = max(AT_MOST, (last - first) // SAMPLES)
    return range(first + min(step // 2, max(0, last - first - 1)), last, step)


def _blocks(x: torch.Tensor, geometry: Geometry, taken: slice) -> torch.Tensor:
    """Some of the whole blocks of ``[B, H, S, D]``: ``[B, H, blocks, tokens, D]``."""
    whole = geometry.tokens // geometry.query_block
    return x[:, :, : whole * geometry.query_block].unflatten(2, (whole, geometry.query_block))[:, :, taken]
