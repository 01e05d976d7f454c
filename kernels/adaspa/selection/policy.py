"""Interface of a selection policy: from the block mass of a search to a pattern."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch

from adaspa.heads import ALL_HEADS, Heads
from adaspa.index import BlockIndex
from adaspa.selection.geometry import Geometry


class Search(NamedTuple):
    """Search: what it found, and where.

    Args:
        q, k: ``[B, H, S, D]``, any strides.
        block_mass: fp32 ``[B, H, nq, nk]``.
        geometry: of the blocks.
        grid: frames, rows and columns of the video tokens; None where the video is not such a grid.
        heads: which heads of the layer these are, for policies that compare them.
    """

    q: torch.Tensor
    k: torch.Tensor
    block_mass: torch.Tensor
    geometry: Geometry
    grid: tuple[int, int, int] | None = None
    heads: Heads = ALL_HEADS


@dataclass(frozen=True, eq=False)
class Selected:
    """A pattern and the recall of each head at its search, fp32 ``[B, H]``."""

    index: BlockIndex
    recall: torch.Tensor


@dataclass(frozen=True)
class Policy(ABC):
    """Chooses the key blocks that each query block keeps (section 4.1 to 4.3). Its fields are its settings.

    In a joint sequence the text sink holds: text queries keep every block, all queries keep the text blocks, and the
    policy chooses among the rest. A row whose block mass sums to no positive number, as those of a query block with a
    NaN in it, keeps every block.
    """

    name: ClassVar[str]
    """Name of the policy in `AdaSpaConfig.selection`."""
    reuses_lse: ClassVar[bool] = True
    """True if a search may take the LSE that an earlier step left."""

    @property
    def is_dense(self) -> bool:
        """True when it keeps every block whatever the mass is."""
        return False

    def select(self, search: Search) -> Selected:
        """Select the pattern of a search.

        Raises:
            ValueError: when the block mass does not have the geometry's blocks.
        """
        geometry = search.geometry
        nq, nk = geometry.query_blocks, geometry.key_blocks
        if search.block_mass.ndim != 4 or search.block_mass.shape[2:] != (nq, nk):
            shape = tuple(search.block_mass.shape)
            raise ValueError(f"block_mass must be [B, H, {nq}, {nk}] for {geometry}, got {shape}")
        return self.choose(search)

    @abstractmethod
    def choose(self, search: Search) -> Selected:
        """Choose the pattern of a search whose shapes are right."""


def listed(ids: torch.Tensor, counts: torch.Tensor, shares: torch.Tensor, geometry: Geometry) -> Selected:
    """Make the pattern of what `adaspa.ops.keep_blocks` returns."""
    index = BlockIndex(ids, counts, geometry.query_block, geometry.key_block, geometry.tokens, geometry.tokens)
    return Selected(index, geometry.mean_over_rows(shares))


def index_recall(block_mass: torch.Tensor, index: BlockIndex) -> torch.Tensor:
    """Recall of each head, fp32 ``[B, H]``: the share of the softmax mass that ``index`` keeps.

    A row is normalised by its measured sum, which a stale LSE makes differ from its number of query rows.
    """
    block_mass = block_mass.float()
    kept = (block_mass * index.to_mask()).sum(-1) / block_mass.sum(-1)
    return Geometry(index.query_tokens, index.query_block, index.key_block).mean_over_rows(kept)


def check_share(name: str, value: Any, *, zero: bool = False) -> None:
    """Raise ValueError unless the value is a number between 0 and 1, 1 excluded and 0 only where it is allowed."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (0 <= value < 1 if zero else 0 < value < 1):
        raise ValueError(f"{name} must be a number in {'[' if zero else '('}0, 1), got {value!r}")
