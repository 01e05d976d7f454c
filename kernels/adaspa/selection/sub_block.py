"""Log-sum-exp scores over sub-blocks: the estimate of the SubBlock router in SGLang (pull request 34148)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from adaspa.selection.policy import Search
from adaspa.selection.scored import Scored, pooled

PRODUCTS = 2**26
"""Products of sub-blocks that are in memory at a time."""


@dataclass(frozen=True)
class SubBlock(Scored):
    """Keeps the blocks with the highest log-sum-exp of the products of their sub-blocks' mean queries and mean keys.

    ``score[p, c] = log sum over sub-blocks i in p, j in c of exp(mean q_i . mean k_j * D ** -0.5)``

    The method runs it in every step, which here is a search in every step; the searches' exact mass serves the recall
    only.

    Args:
        sparsity: share of the key blocks that each query block skips, in [0, 1). 0 is dense attention throughout.
        tokens: in a sub-block; a divisor of both blocks.

    Raises:
        ValueError: naming the setting and what is allowed; in a search, when ``tokens`` does not divide its blocks.
    """

    name: ClassVar[str] = "sub_block"

    tokens: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.tokens, int) or self.tokens < 1:
            raise ValueError(f"tokens must be an integer of at least 1, got {self.tokens!r}")

    def scores(self, search: Search) -> torch.Tensor:
        geometry = search.geometry
        if geometry.query_block % self.tokens or geometry.key_block % self.tokens:
            blocks = f"{geometry.query_block} and {geometry.key_block}"
            raise ValueError(f"tokens must be a divisor of the blocks of {blocks} tokens, got {self.tokens}")
        query, key = pooled(search.q, self.tokens), pooled(search.k, self.tokens)
        query *= search.q.shape[-1] ** -0.5
        rows, columns = geometry.query_block // self.tokens, geometry.key_block // self.tokens
        # As many heads at a time as PRODUCTS allows: at 115,200 tokens the products of one take 207 MB.
        heads = max(1, PRODUCTS // (query.shape[0] * query.shape[2] * key.shape[2]))
        parts = zip(query.split(heads, dim=1), key.split(heads, dim=1), strict=True)
        scores = torch.cat([_scores(q, k, rows, columns) for q, k in parts], dim=1)
        # As shares of a row: the order is that of the scores, and none is negative.
        return scores.softmax(dim=-1)


def _scores(query: torch.Tensor, key: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Log-sum-exp over blocks of ``rows`` x ``columns`` sub-blocks: ``[B, H, sub-blocks, D]`` to ``[B, H, nq, nk]``."""
    products = query @ key.transpose(-1, -2)
    padding = (0, -products.shape[-1] % columns, 0, -products.shape[-2] % rows)
    parts = F.pad(products, padding, value=-torch.inf).unflatten(-1, (-1, columns)).unflatten(-3, (-1, rows))
    return parts.logsumexp(dim=(-3, -1))
