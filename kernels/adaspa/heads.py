"""The heads of a layer's attention: one process has all of them, unless ranks share a sequence."""

from typing import Protocol

import torch


class Heads(Protocol):
    """Which heads of the layer this process attends with, and what the others found for theirs."""

    def total(self, own: int) -> int:
        """The heads of the layer, of which this process has ``own``."""
        ...

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, own heads, ...]`` of every process as ``[B, heads, ...]`` in the model's order."""
        ...

    def own(self, x: torch.Tensor) -> torch.Tensor:
        """The way back, without the others: ``[B, heads, ...]`` to ``[B, own heads, ...]``."""
        ...

    def any(self, value: bool) -> bool:
        """Whether it is true in any process."""
        ...


class AllHeads:
    """All heads in one process."""

    def total(self, own: int) -> int:
        return own

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def own(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def any(self, value: bool) -> bool:
        return value


ALL_HEADS = AllHeads()
