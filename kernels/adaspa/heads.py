"""Heads of a layer's attention: one process has all of them, unless ranks share a sequence."""

from typing import Protocol

import torch


class Heads(Protocol):
    """Heads of the layer that this process attends with, and the way to what the others found for theirs."""

    def total(self, own: int) -> int:
        """Count the heads of the layer, of which this process has ``own``."""
        ...

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, own heads, ...]`` of every process as ``[B, heads, ...]`` in the model's order."""
        ...

    def own(self, x: torch.Tensor) -> torch.Tensor:
        """Cut back to this process' heads: ``[B, heads, ...]`` to ``[B, own heads, ...]``."""
        ...

    def any(self, value: bool) -> bool:
        """Tell whether it is true in any process."""
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
