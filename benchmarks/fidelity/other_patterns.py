"""Patterns as other methods find them, at AdaSpa's schedule: what its own are compared with.

Each is a state that keeps the same number of blocks in every row, those of the highest score by another measure than
the softmax mass. The recall is that of the true mass all the same. Used as
``handle.new_state = lambda config, steps: SlidingWindow(config, steps, handle)``.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

import torch
import torch.nn.functional as F
from adaspa.config import AdaSpaConfig
from adaspa.handle import AdaSpaHandle
from adaspa.selection import Geometry, Selected, index_recall, select_blocks
from adaspa.state import Action, AdaSpaState


class FreshSearch(AdaSpaState):
    """AdaSpa without reuse of the LSE: every search takes its own, at the cost of two dense passes."""

    def action(self, layer: int, sample: int | None = None) -> Action:
        action = super().action(layer, sample)
        return Action.DENSE if action is Action.DENSE_WITH_LSE else action

    @property
    def keeps_lse(self) -> bool:
        return False


class ScoredPatterns(AdaSpaState):
    """Row-uniform top-k of other scores, with the sparsity of the config.

    Args:
        handle: of the transformer, for the grid of its video tokens.
    """

    def __init__(self, config: AdaSpaConfig, steps: int | None, handle: AdaSpaHandle) -> None:
        super().__init__(config, steps)
        self.handle = handle

    @abstractmethod
    def scores(self, q: torch.Tensor, k: torch.Tensor, weights: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        """Of every block, none negative: ``[B, H, nq, nk]``."""

    def select(
        self, q: torch.Tensor, k: torch.Tensor, weights: torch.Tensor, config: AdaSpaConfig, geometry: Geometry
    ) -> Selected:
        return self.top(self.scores(q, k, weights, geometry), weights, config, geometry)

    def top(self, scores: torch.Tensor, weights: torch.Tensor, config: AdaSpaConfig, geometry: Geometry) -> Selected:
        """The pattern of the highest scores."""
        config = replace(config, selection="top_k", head_adaptive=False)
        index = select_blocks(scores.expand(weights.shape).contiguous(), config, geometry).index
        return Selected(index, index_recall(weights, index))

    def centres(self, geometry: Geometry, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Frame, row and column of the middle of each query block and of each key block: fp32 ``[n, 3]`` each."""
        assert self.handle.layout.grid is not None, "the video is a grid"
        axes = torch.meshgrid(*(torch.arange(n, device=device) for n in self.handle.layout.grid), indexing="ij")
        places = torch.stack([axis.flatten() for axis in axes], dim=-1).float()
        query, key = (
            torch.stack([part.mean(0) for part in places.split(block)])
            for block in (geometry.query_block, geometry.key_block)
        )
        return query, key


class SlidingWindow(ScoredPatterns):
    """The blocks nearest in the order of the sequence."""

    def scores(self, q: torch.Tensor, k: torch.Tensor, weights: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        query, key = (
            (torch.arange(n, device=q.device) + 0.5) * block
            for n, block in (
                (geometry.query_blocks, geometry.query_block),
                (geometry.key_blocks, geometry.key_block),
            )
        )
        return 1 / (1 + (query.unsqueeze(1) - key).abs())


class SpatialStripes(ScoredPatterns):
    """The whole of the own frame first, then that of the frames next to it."""

    def scores(self, q: torch.Tensor, k: torch.Tensor, weights: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        frames, places = self.distances(geometry, q.device)
        return 1 / (1 + frames + 0.001 * places)

    def distances(self, geometry: Geometry, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Between all query and key blocks, in frames and in tokens within the frame: ``[nq, nk]`` each."""
        query, key = self.centres(geometry, device)
        apart = query.unsqueeze(1) - key
        return apart[..., 0].abs(), apart[..., 1:].norm(dim=-1)


class TemporalStripes(SpatialStripes):
    """The own place in every frame first, those of the nearest frames before others; then the places next to it."""

    def scores(self, q: torch.Tensor, k: torch.Tensor, weights: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        frames, places = self.distances(geometry, q.device)
        return 1 / (1 + places + 0.001 * frames)


class StripesByHead(SpatialStripes):
    """For each head the spatial or the temporal stripes, whichever hold more of its mass, as in Sparse VideoGen."""

    def scores(self, q: torch.Tensor, k: torch.Tensor, weights: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        frames, places = self.distances(geometry, q.device)
        spatial, temporal = (
            (1 / (1 + score)).expand(weights.shape) for score in (frames + 0.001 * places, places + 0.001 * frames)
        )
        recall_s, recall_t = (self.top(x, weights, self.config, geometry).recall for x in (spatial, temporal))
        return torch.where((recall_s >= recall_t)[..., None, None], spatial, temporal)


class MeanPooled(ScoredPatterns):
    """Softmax over the products of the mean query of a block with the mean keys, as SpargeAttn estimates the mass."""

    def scores(self, q: torch.Tensor, k: torch.Tensor, weights: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        query, key = _pooled(q, geometry.query_block), _pooled(k, geometry.key_block)
        return ((query @ key.transpose(-1, -2)) * q.shape[-1] ** -0.5).softmax(dim=-1)


class Antidiagonal(ScoredPatterns):
    """Softmax mass along antidiagonals of every 8 x 8 tokens, summed over the block, as in XAttention."""

    STRIDE = 8

    def scores(self, q: torch.Tensor, k: torch.Tensor, weights: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        queries, keys = (F.pad(x.float(), (0, 0, 0, -x.shape[2] % 128)).unflatten(2, (-1, self.STRIDE)) for x in (q, k))
        # Of a group of tokens the first query meets the last key, the second the last but one, and so on.
        products = queries.flatten(3) @ keys.flip(3).flatten(3).transpose(-1, -2)
        groups = -(-q.shape[2] // self.STRIDE)
        mass = (products * (q.shape[-1] ** -0.5 / self.STRIDE))[..., :groups, :groups].softmax(dim=-1)
        rows, columns = geometry.query_block // self.STRIDE, geometry.key_block // self.STRIDE
        mass = F.pad(mass, (0, -groups % columns, 0, -groups % rows))
        return mass.unflatten(-1, (-1, columns)).sum(-1).unflatten(-2, (-1, rows)).sum(-2)


def _pooled(x: torch.Tensor, block: int) -> torch.Tensor:
    """The mean of each block of tokens: fp32 ``[B, H, blocks, D]``."""
    return torch.stack([part.float().mean(2) for part in x.split(block, dim=2)], dim=2)
