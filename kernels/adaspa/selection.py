"""From block mass to the block index: which key blocks each query block keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from adaspa.config import AdaSpaConfig
from adaspa.index import BlockIndex, num_blocks
from adaspa.ops.keep_blocks import keep_blocks

# Section 4.3: a head whose recall at the base sparsity is above this can give blocks away.
HIGH_RECALL = 0.8


class Geometry(NamedTuple):
    """The self-attention sequence in blocks.

    ``text`` is the ``(start, stop)`` token range of the text in a joint sequence, or None.
    """

    tokens: int
    query_block: int
    key_block: int
    text: tuple[int, int] | None = None

    @property
    def query_blocks(self) -> int:
        return num_blocks(self.tokens, self.query_block)

    @property
    def key_blocks(self) -> int:
        return num_blocks(self.tokens, self.key_block)

    @property
    def query_text(self) -> range:
        """The query blocks that hold at least one text token."""
        return self._text_blocks(self.query_block)

    @property
    def key_text(self) -> range:
        """The key blocks that hold at least one text token."""
        return self._text_blocks(self.key_block)

    def rows_per_block(self, device: torch.device) -> torch.Tensor:
        """Query rows in each query block, fp32 ``[nq]``: all full but perhaps the last."""
        starts = torch.arange(self.query_blocks, device=device) * self.query_block
        return (self.tokens - starts).clamp(max=self.query_block).float()

    def _text_blocks(self, block: int) -> range:
        if self.text is None or self.text[0] >= self.text[1]:
            return range(0)
        return range(self.text[0] // block, num_blocks(self.text[1], block))


@dataclass(frozen=True, eq=False)
class Selected:
    """A pattern and the recall of each head at its search, fp32 ``[B, H]``."""

    index: BlockIndex
    recall: torch.Tensor


def select_blocks(block_mass: torch.Tensor, config: AdaSpaConfig, geometry: Geometry) -> Selected:
    """Choose the key blocks to keep from block mass ``[B, H, nq, nk]`` (section 4.1 to 4.3).

    In a joint sequence the text sink holds: text queries keep every block, all queries keep the text blocks, and
    sparsity or retained mass chooses among the rest. A row whose block mass sums to no positive number, as those of a
    query block with a NaN in it, keeps every block.

    Raises:
        ValueError: when ``block_mass`` does not have the geometry's blocks.
    """
    nq, nk = geometry.query_blocks, geometry.key_blocks
    if block_mass.ndim != 4 or block_mass.shape[2:] != (nq, nk):
        raise ValueError(f"block_mass must be [B, H, {nq}, {nk}] for {geometry}, got {tuple(block_mass.shape)}")
    select = _retained_mass if config.selection == "retained_mass" else _top_k
    ids, counts, shares = select(block_mass, config, geometry)
    index = BlockIndex(ids, counts, geometry.query_block, geometry.key_block, geometry.tokens, geometry.tokens)
    return Selected(index, _mean_over_rows(shares, geometry))


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


def blocks_moved(sparsity: float, blocks: int) -> int:
    """How many blocks fewer than ``blocks_kept`` a row of a giving head has, and one of a receiving head more (4.3).

    At sparsity s that is ``(1 - s) / 2`` of them, which takes the heads to ``(1 + s) / 2`` and ``(3 s - 1) / 2``. Below
    a third no head can receive so many, and all that it lacks is moved. It is the same number for both, so that the
    mean stays as it was asked for; a giving head keeps at least one block.
    """
    kept = blocks_kept(sparsity, blocks)
    return max(0, min(int((1 - sparsity) / 2 * blocks + 0.5), kept - 1, blocks - kept))


def index_recall(block_mass: torch.Tensor, index: BlockIndex) -> torch.Tensor:
    """Recall of each head, fp32 ``[B, H]``: the share of the softmax mass that ``index`` keeps.

    A row is normalised by its measured sum, which a stale LSE makes differ from its number of query rows.
    """
    block_mass = block_mass.float()
    kept = (block_mass * index.to_mask()).sum(-1) / block_mass.sum(-1)
    return _mean_over_rows(kept, Geometry(index.query_tokens, index.query_block, index.key_block))


def _top_k(
    block_mass: torch.Tensor, config: AdaSpaConfig, geometry: Geometry
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, counts and kept shares of the row-uniform top-k. Nothing waits for the device."""
    text = {"text": geometry.key_text, "text_rows": geometry.query_text}
    video = geometry.key_blocks - len(geometry.key_text)
    base = len(geometry.key_text) + blocks_kept(config.sparsity, video)
    limits = torch.full(block_mass.shape[:2], base, dtype=torch.float32, device=block_mass.device)
    width = base
    if config.head_adaptive:
        shares = keep_blocks(block_mass, limits, by_mass=False, width=0, **text)[2]
        shift = head_shift(_mean_over_rows(shares, geometry))
        moved = blocks_moved(config.sparsity, video)
        limits = limits - moved * shift
        width = base + moved
    return keep_blocks(block_mass, limits, by_mass=False, width=width, **text)


def _retained_mass(
    block_mass: torch.Tensor, config: AdaSpaConfig, geometry: Geometry
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, counts and kept shares of the fewest blocks that hold the mass.

    Waits for the device once: the lists are as wide as the longest row that is not full, which no one knows before.
    """
    limits = torch.full(block_mass.shape[:2], config.mass, dtype=torch.float32, device=block_mass.device)
    text = {"text": geometry.key_text, "text_rows": geometry.query_text}
    counts = keep_blocks(block_mass, limits, by_mass=True, width=0, **text)[1]
    width = max(1, int(torch.where(counts == geometry.key_blocks, 0, counts).max()))
    return keep_blocks(block_mass, limits, by_mass=True, width=width, **text)


def _mean_over_rows(per_block: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    rows = geometry.rows_per_block(per_block.device)
    return (per_block * rows).sum(-1) / rows.sum()
