"""Selection of the heaviest blocks of each row, as long as the next one is worth its work."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from adaspa.ops.keep_blocks import keep_blocks
from adaspa.selection.policy import Policy, Search, Selected, listed


@dataclass(frozen=True)
class MarginalMass(Policy):
    """Keeps the heaviest blocks of each row, as long as more blocks add enough to the mass it keeps. *Ours*.

    A block is kept if it adds at least ``price / blocks`` of the mass that the heavier blocks of its row hold. So the
    logarithms of the kept mass of all rows add up to the most that this number of blocks can reach: work goes where it
    adds most, and no row is left with next to nothing. A peaked row keeps few blocks. One whose attention is spread
    evenly keeps ``1 / price`` of them, where a fixed mass would keep nearly all.

    It never waits for the device, as `RetainedMass`.

    Args:
        price: what a block must be worth, above 0: at 2, one percent more of the blocks must add two percent to the
            mass that the row keeps.

    Raises:
        ValueError: naming the setting and what is allowed.
    """

    name: ClassVar[str] = "marginal_mass"

    price: float = 1.0

    def __post_init__(self) -> None:
        number = isinstance(self.price, int | float) and not isinstance(self.price, bool)
        if not number or not 0 < self.price < float("inf"):
            raise ValueError(f"price must be a number above 0, got {self.price!r}")

    def choose(self, search: Search) -> Selected:
        found, geometry = search.block_mass, search.geometry
        least = self.price / geometry.key_blocks
        limits = torch.full(found.shape[:2], least, dtype=torch.float32, device=found.device)
        text = {"text": geometry.key_text, "text_rows": geometry.query_text}
        return listed(*keep_blocks(found, limits, rule="gain", width=geometry.key_blocks, **text), geometry)
