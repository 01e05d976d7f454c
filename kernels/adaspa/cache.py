"""What one request keeps between denoising steps: LSE and block index, per layer and CFG branch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from adaspa.index import BlockIndex


class CacheKey(NamedTuple):
    """The pattern is stable across denoising steps, never across layers or CFG branches.

    ``sample`` is the sample of a batch whose sequences differ in length, None where one entry holds the whole batch.
    """

    branch: str
    layer: int
    sample: int | None = None


@dataclass(frozen=True, eq=False)
class CacheEntry:
    """Args:
    lse: natural-log LSE of every query row, fp32 ``[B, H, S]``, or None once no later step will search.
    index: the pattern in use, or None before the first search.
    """

    lse: torch.Tensor | None = None
    index: BlockIndex | None = None

    @property
    def nbytes(self) -> int:
        return (0 if self.lse is None else self.lse.nbytes) + (0 if self.index is None else self.index.nbytes)


class RequestCache:
    """The entries of one request, with their bytes accounted."""

    def __init__(self) -> None:
        self._entries: dict[CacheKey, CacheEntry] = {}
        self.nbytes = 0
        self.peak_nbytes = 0

    def get(self, key: CacheKey) -> CacheEntry:
        """The entry of ``key``, empty if nothing was put there."""
        return self._entries.get(key, CacheEntry())

    def put(self, key: CacheKey, entry: CacheEntry) -> None:
        """Replace the entry of ``key``."""
        self.nbytes += entry.nbytes - self.get(key).nbytes
        self.peak_nbytes = max(self.peak_nbytes, self.nbytes)
        self._entries[key] = entry

    def has_index(self, branch: str) -> bool:
        """True once a layer of ``branch`` has a pattern."""
        return any(key.branch == branch and entry.index is not None for key, entry in self._entries.items())

    def drop(self) -> None:
        """Let go of every tensor. The peak stays readable."""
        self._entries.clear()
        self.nbytes = 0
