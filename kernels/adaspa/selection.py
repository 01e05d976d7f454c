"""From block weights to the block index: which key blocks each query block keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from adaspa.config import AdaSpaConfig
from adaspa.index import BlockIndex, num_blocks

# Section 4.3: a head whose recall at the base sparsity is above this can give blocks away.
HIGH_RECALL = 0.8


class Geometry(NamedTuple):
    """The self-attention sequence in blocks.

    ``text`` is the ``(start, stop)`` token range of the text in a joint sequence, or None.
    """

    tokens: int
    block: int
    text: tuple[int, int] | None = None

    @property
    def blocks(self) -> int:
        return num_blocks(self.tokens, self.block)

    @property
    def text_blocks(self) -> range:
        """The blocks that hold at least one text token."""
        if self.text is None or self.text[0] >= self.text[1]:
            return range(0)
        return range(self.text[0] // self.block, num_blocks(self.text[1], self.block))

    def rows_per_block(self, device: torch.device) -> torch.Tensor:
        """Query rows in each block, fp32 ``[nq]``: all full but perhaps the last."""
        starts = torch.arange(self.blocks, device=device) * self.block
        return (self.tokens - starts).clamp(max=self.block).float()


@dataclass(frozen=True, eq=False)
class Selected:
    """A pattern and the recall of each head at its search, fp32 ``[B, H]``."""

    index: BlockIndex
    recall: torch.Tensor


def select_blocks(weights: torch.Tensor, config: AdaSpaConfig, geometry: Geometry) -> Selected:
    """Choose the key blocks to keep from block weights ``[B, H, nq, nk]`` (section 4.1 to 4.3).

    In a joint sequence the text sink holds: text queries keep every block, all queries keep the text blocks, and
    sparsity or retained mass chooses among the rest.

    Raises:
        ValueError: when ``weights`` does not have the geometry's blocks.
    """
    nk = geometry.blocks
    if weights.ndim != 4 or weights.shape[2:] != (nk, nk):
        raise ValueError(f"weights must be [B, H, {nk}, {nk}] for {geometry}, got {tuple(weights.shape)}")
    shares = weights.float() / weights.float().sum(-1, keepdim=True)
    ranking = shares.clone()
    text = geometry.text_blocks
    ranking[..., text.start : text.stop] = torch.inf
    if config.selection == "retained_mass":
        ranked, counts = _retained_mass(ranking, shares, config.mass, len(text))
    else:
        ranked, counts = _top_k(ranking, shares, config, geometry)
    if len(text):
        counts[..., text.start : text.stop] = nk
    index = _compact(ranked, counts, geometry)
    return Selected(index, _mean_over_rows(_kept_share(shares, ranked, counts), geometry))


def blocks_kept(sparsity: float, blocks: int) -> int:
    """``k = round((1 - sparsity) * blocks)``, at least 1 where there is a block (section 4.1)."""
    return max(min(1, blocks), int((1 - sparsity) * blocks + 0.5))


def head_shift(recall: torch.Tensor) -> torch.Tensor:
    """Which heads give blocks away (1), which receive them (-1), from their recall at the base sparsity: ``[B, H]``.

    With ``n`` heads above a recall of 0.8, at most half of them all, the ``n`` heads of highest recall give and the
    ``n`` lowest receive (section 4.3).
    """
    heads = recall.shape[-1]
    rank = recall.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    moved = (recall > HIGH_RECALL).sum(-1, keepdim=True).clamp(max=heads // 2)
    return (rank < moved).int() - (rank >= heads - moved).int()


def shifted_sparsity(sparsity: float) -> tuple[float, float]:
    """Sparsity of the heads that give, ``(1 + s) / 2``, and of those that receive, ``(3 s - 1) / 2`` but at least 0."""
    return (1 + sparsity) / 2, max(0.0, (3 * sparsity - 1) / 2)


def index_recall(weights: torch.Tensor, index: BlockIndex) -> torch.Tensor:
    """Recall of each head, fp32 ``[B, H]``: the share of the softmax mass that ``index`` keeps.

    A row is normalised by its measured sum, which a stale LSE makes differ from its number of query rows.
    """
    weights = weights.float()
    kept = (weights * index.to_mask()).sum(-1) / weights.sum(-1)
    return _mean_over_rows(kept, Geometry(index.query_tokens, index.query_block))


def _top_k(
    ranking: torch.Tensor, shares: torch.Tensor, config: AdaSpaConfig, geometry: Geometry
) -> tuple[torch.Tensor, torch.Tensor]:
    """Block ids by rank ``[B, H, nq, kmax]`` and counts ``[B, H, nq]`` of the row-uniform top-k."""
    text = geometry.text_blocks
    free = geometry.blocks - len(text)
    base = len(text) + blocks_kept(config.sparsity, free)
    if not config.head_adaptive:
        return ranking.topk(base, dim=-1).indices, torch.full(
            ranking.shape[:3], base, dtype=torch.int32, device=ranking.device
        )
    fewest, most = (len(text) + blocks_kept(sparsity, free) for sparsity in shifted_sparsity(config.sparsity))
    ranked = ranking.topk(most, dim=-1).indices
    base_counts = torch.full(ranking.shape[:3], base, dtype=torch.int32, device=ranking.device)
    if len(text):
        base_counts[..., text.start : text.stop] = geometry.blocks
    shift = head_shift(_mean_over_rows(_kept_share(shares, ranked, base_counts), geometry)).unsqueeze(-1)
    counts = torch.where(shift > 0, fewest, torch.where(shift < 0, most, base)).int()
    return ranked, counts.expand(ranking.shape[:3]).contiguous()


def _retained_mass(
    ranking: torch.Tensor, shares: torch.Tensor, mass: float, forced: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Block ids by rank and the fewest of them that hold ``mass`` of the row, the forced ones first."""
    ranked = ranking.argsort(dim=-1, descending=True)
    ordered = shares.gather(-1, ranked)
    before = ordered.cumsum(-1) - ordered
    counts = (before < mass).sum(-1, dtype=torch.int32)
    return ranked, counts.clamp(min=max(1, forced))


def _kept_share(shares: torch.Tensor, ranked: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """The share of each row's mass in its first ``counts`` ranked blocks, fp32 ``[B, H, nq]``."""
    kept = torch.arange(ranked.shape[-1], device=ranked.device) < counts.unsqueeze(-1)
    share = (shares.gather(-1, ranked) * kept).sum(-1)
    return torch.where(counts == shares.shape[-1], 1.0, share)


def _mean_over_rows(per_block: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    rows = geometry.rows_per_block(per_block.device)
    return (per_block * rows).sum(-1) / rows.sum()


def _compact(ranked: torch.Tensor, counts: torch.Tensor, geometry: Geometry) -> BlockIndex:
    """The ascending index of the first ``counts`` ranked blocks."""
    nk = geometry.blocks
    if ranked.shape[-1] == nk:
        # The lists need only be as wide as the longest row that is not full.
        ranked = ranked[..., : max(1, int(torch.where(counts == nk, 0, counts).max()))]
    kept = torch.arange(ranked.shape[-1], device=ranked.device) < counts.unsqueeze(-1)
    ids = torch.where(kept, ranked, nk).sort(dim=-1).values.clamp_(max=nk - 1).to(torch.int16)
    return BlockIndex(ids, counts, geometry.block, geometry.block, geometry.tokens, geometry.tokens)
