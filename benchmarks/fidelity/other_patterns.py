"""Patterns as other methods find them, at AdaSpa's schedule: what its own are compared with.

Each is a selection policy that keeps the same number of blocks in every row, those of the highest score by another
measure than the softmax mass. The recall is that of the true mass all the same.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from adaspa.selection import Scored, Search, TopK
from adaspa.selection.scored import pooled


@dataclass(frozen=True)
class FreshSearch(TopK):
    """AdaSpa without reuse of the LSE: every search takes its own, at the cost of a dense pass and a scoring."""

    name: ClassVar[str] = "fresh_search"
    reuses_lse: ClassVar[bool] = False


@dataclass(frozen=True)
class SlidingWindow(Scored):
    """The blocks nearest in the order of the sequence."""

    name: ClassVar[str] = "sliding_window"

    def scores(self, search: Search) -> torch.Tensor:
        query, key = (
            (torch.arange(n, device=search.q.device) + 0.5) * block
            for n, block in (
                (search.geometry.query_blocks, search.geometry.query_block),
                (search.geometry.key_blocks, search.geometry.key_block),
            )
        )
        return 1 / (1 + (query.unsqueeze(1) - key).abs())


@dataclass(frozen=True)
class SpatialStripes(Scored):
    """The whole of the own frame first, then that of the frames next to it."""

    name: ClassVar[str] = "spatial_stripes"

    def scores(self, search: Search) -> torch.Tensor:
        frames, places = distances(search)
        return 1 / (1 + frames + 0.001 * places)


@dataclass(frozen=True)
class TemporalStripes(Scored):
    """The own place in every frame first, those of the nearest frames before others; then the places next to it."""

    name: ClassVar[str] = "temporal_stripes"

    def scores(self, search: Search) -> torch.Tensor:
        frames, places = distances(search)
        return 1 / (1 + places + 0.001 * frames)


@dataclass(frozen=True)
class StripesByHead(Scored):
    """For each head the spatial or the temporal stripes, whichever hold more of its mass, as in Sparse VideoGen."""

    name: ClassVar[str] = "stripes_by_head"

    def scores(self, search: Search) -> torch.Tensor:
        frames, places = distances(search)
        spatial, temporal = (
            (1 / (1 + score)).expand(search.block_mass.shape)
            for score in (frames + 0.001 * places, places + 0.001 * frames)
        )
        recall_s, recall_t = (self.highest(x, search).recall for x in (spatial, temporal))
        return torch.where((recall_s >= recall_t)[..., None, None], spatial, temporal)


@dataclass(frozen=True)
class MeanPooled(Scored):
    """Softmax over the products of the mean query of a block with the mean keys, as SpargeAttn estimates the mass."""

    name: ClassVar[str] = "mean_pooled"

    def scores(self, search: Search) -> torch.Tensor:
        query, key = pooled(search.q, search.geometry.query_block), pooled(search.k, search.geometry.key_block)
        return ((query @ key.transpose(-1, -2)) * search.q.shape[-1] ** -0.5).softmax(dim=-1)


@dataclass(frozen=True)
class Antidiagonal(Scored):
    """Softmax mass along antidiagonals of every 8 x 8 tokens, summed over the block, as in XAttention."""

    name: ClassVar[str] = "antidiagonal"

    STRIDE: ClassVar[int] = 8

    def scores(self, search: Search) -> torch.Tensor:
        q, k, geometry = search.q, search.k, search.geometry
        queries, keys = (F.pad(x.float(), (0, 0, 0, -x.shape[2] % 128)).unflatten(2, (-1, self.STRIDE)) for x in (q, k))
        # Of a group of tokens the first query meets the last key, the second the last but one, and so on.
        products = queries.flatten(3) @ keys.flip(3).flatten(3).transpose(-1, -2)
        groups = -(-q.shape[2] // self.STRIDE)
        mass = (products * (q.shape[-1] ** -0.5 / self.STRIDE))[..., :groups, :groups].softmax(dim=-1)
        rows, columns = geometry.query_block // self.STRIDE, geometry.key_block // self.STRIDE
        mass = F.pad(mass, (0, -groups % columns, 0, -groups % rows))
        return mass.unflatten(-1, (-1, columns)).sum(-1).unflatten(-2, (-1, rows)).sum(-2)


def distances(search: Search) -> tuple[torch.Tensor, torch.Tensor]:
    """Between all query and key blocks, in frames and in tokens within the frame: ``[nq, nk]`` each."""
    assert search.grid is not None, "the video is a grid"
    axes = torch.meshgrid(*(torch.arange(n, device=search.q.device) for n in search.grid), indexing="ij")
    places = torch.stack([axis.flatten() for axis in axes], dim=-1).float()
    query, key = (
        torch.stack([part.mean(0) for part in places.split(block)])
        for block in (search.geometry.query_block, search.geometry.key_block)
    )
    apart = query.unsqueeze(1) - key
    return apart[..., 0].abs(), apart[..., 1:].norm(dim=-1)
