"""Selection of the fewest blocks of each row that hold a given softmax mass."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from adaspa.ops.keep_blocks import keep_blocks
from adaspa.selection.policy import Policy, Search, Selected, check_share, listed


@dataclass(frozen=True)
class RetainedMass(Policy):
    """Keeps the fewest blocks of each row that hold ``mass`` of it; adaptive by nature. *Ours*, not the paper's.

    It never waits for the device: which row is the longest is not known ahead, so that the lists have room for all
    blocks. The cache leaves the room of large ones out.

    Args:
        mass: the softmax mass to keep, in (0, 1).

    Raises:
        ValueError: naming the setting and what is allowed.
    """

    name: ClassVar[str] = "retained_mass"

    mass: float = 0.95

    def __post_init__(self) -> None:
        check_share("mass", self.mass)

    def choose(self, search: Search) -> Selected:
        found, geometry = search.block_mass, search.geometry
        limits = torch.full(found.shape[:2], self.mass, dtype=torch.float32, device=found.device)
        text = {"text": geometry.key_text, "text_rows": geometry.query_text}
        return listed(*keep_blocks(found, limits, rule="mass", width=geometry.key_blocks, **text), geometry)
