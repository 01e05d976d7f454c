"""Heads of a layer's attention: one process has all of them, unless ranks share a sequence."""

from collections.abc import Callable
from typing import Protocol

import torch

from adaspa.index import BlockIndex


class Heads(Protocol):
    """Heads of the layer that this process attends with, and the way to what the others found for theirs."""

    @property
    def is_first(self) -> bool:
        """True if a call with these enters the record: not with further parts of a process's heads."""
        ...

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

    def lists(self, fetch: Callable[[], BlockIndex]) -> BlockIndex:
        """Return the lists of these heads, from what ``fetch`` returns for all that the process has."""
        ...


class AllHeads:
    """All heads in one process."""

    is_first = True

    def total(self, own: int) -> int:
        return own

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def own(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def any(self, value: bool) -> bool:
        return value

    def lists(self, fetch: Callable[[], BlockIndex]) -> BlockIndex:
        return fetch()


ALL_HEADS = AllHeads()
