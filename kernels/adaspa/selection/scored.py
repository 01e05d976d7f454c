"""Row-uniform top-k of other scores than the softmax mass: what methods that estimate it have in common."""

from abc import abstractmethod
from dataclasses import dataclass

import torch

from adaspa.selection.policy import Policy, Search, Selected, check_share, index_recall
from adaspa.selection.top_k import TopK


@dataclass(frozen=True)
class Scored(Policy):
    """Keeps the same number of blocks in every row, those of the highest score. The recall is that of the true mass.

    Args:
        sparsity: share of the key blocks that each query block skips, in [0, 1). 0 is dense attention throughout.

    Raises:
        ValueError: naming the setting and what is allowed.
    """

    sparsity: float = 0.8

    def __post_init__(self) -> None:
        check_share("sparsity", self.sparsity, zero=True)

    @property
    def is_dense(self) -> bool:
        return self.sparsity == 0

    @abstractmethod
    def scores(self, search: Search) -> torch.Tensor:
        """Return a score of every block, none negative: ``[B, H, nq, nk]`` or what broadcasts to it."""

    def choose(self, search: Search) -> Selected:
        return self.highest(self.scores(search), search)

    def highest(self, scores: torch.Tensor, search: Search) -> Selected:
        """Keep the highest scores, and note the recall of the true mass."""
        scores = scores.expand(search.block_mass.shape).contiguous()
        index = TopK(self.sparsity, head_adaptive=False).choose(search._replace(block_mass=scores)).index
        return Selected(index, index_recall(search.block_mass, index))


def pooled(x: torch.Tensor, block: int) -> torch.Tensor:
    """Average each block of tokens, the last one perhaps shorter: ``[B, H, S, D]`` to fp32 ``[B, H, blocks, D]``."""
    whole = x.shape[2] // block * block
    means = x[:, :, :whole].unflatten(2, (-1, block)).mean(3, dtype=torch.float32)
    if whole == x.shape[2]:
        return means
    return torch.cat([means, x[:, :, whole:].mean(2, keepdim=True, dtype=torch.float32)], dim=2)
