"""Row-uniform top-k with head-adaptive sparsity: the paper's selection."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from adaspa.ops.keep_blocks import keep_blocks
from adaspa.selection.policy import Policy, Search, Selected, check_share, listed

HIGH_RECALL = 0.8
"""Section 4.3: a head whose recall at the base sparsity is above this can give blocks away."""


@dataclass(frozen=True)
class TopK(Policy):
    """Keeps the same number of blocks in every row, those of the largest mass (section 4.1).

    It never waits for the device.

    Args:
        sparsity: share of the key blocks that each query block skips, in [0, 1). 0 is dense attention throughout.
        head_adaptive: move sparsity from the heads with the lowest recall to those with the highest, the mean staying
            as it is (section 4.3).

    Raises:
        ValueError: naming the setting and what is allowed.
    """

    name: ClassVar[str] = "top_k"

    sparsity: float = 0.8
    head_adaptive: bool = True

    def __post_init__(self) -> None:
        check_share("sparsity", self.sparsity, zero=True)
        if not isinstance(self.head_adaptive, bool):
            raise ValueError(f"head_adaptive must be True or False, got {self.head_adaptive!r}")

    @property
    def is_dense(self) -> bool:
        return self.sparsity == 0

    def choose(self, search: Search) -> Selected:
        mass, geometry = search.block_mass, search.geometry
        text = {"text": geometry.key_text, "text_rows": geometry.query_text}
        video = geometry.key_blocks - len(geometry.key_text)
        base = len(geometry.key_text) + blocks_kept(self.sparsity, video)
        limits = torch.full(mass.shape[:2], base, dtype=torch.float32, device=mass.device)
        width = base
        if self.head_adaptive:
            shares = keep_blocks(mass, limits, rule="count", width=0, **text)[2]
            moved = blocks_moved(self.sparsity, video)
            recall = search.heads.gather(geometry.mean_over_rows(shares))
            limits = limits - moved * search.heads.own(head_shift(recall))
            width = base + moved
        return listed(*keep_blocks(mass, limits, rule="count", width=width, **text), geometry)


def blocks_kept(sparsity: float, blocks: int) -> int:
    """``k = round((1 - sparsity) * blocks)``, at least 1 where there is a block (section 4.1)."""
    return max(min(1, blocks), int((1 - sparsity) * blocks + 0.5))


def head_shift(recall: torch.Tensor) -> torch.Tensor:
    """Say which heads give blocks away (1) or receive them (-1), by their recall at the base sparsity: ``[B, H]``.

    With ``n`` heads above a recall of 0.8, at most half of them all, the ``n`` heads of highest recall give and the
    ``n`` lowest receive (section 4.3).
    """
    heads = recall.shape[-1]
    rank = recall.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    moved = (recall > HIGH_RECALL).sum(-1, keepdim=True).clamp(max=heads // 2)
    return (rank < moved).int() - (rank >= heads - moved).int()


def blocks_moved(sparsity: float, blocks: int) -> int:
    """Compute how many of ``blocks_kept`` a row of a giving head loses, and one of a receiving head gains (4.3).

    At sparsity s that is ``(1 - s) / 2`` of them, which takes the heads to ``(1 + s) / 2`` and ``(3 s - 1) / 2``. Below
    a third no head can receive that many, and all that it lacks is moved. It is the same number for both, so that the
    mean stays as it was asked for; a giving head keeps at least one block.
    """
    kept = blocks_kept(sparsity, blocks)
    return max(0, min(int((1 - sparsity) / 2 * blocks + 0.5), kept - 1, blocks - kept))
