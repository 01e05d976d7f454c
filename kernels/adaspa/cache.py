"""What one request keeps between denoising steps: LSE and block index, per layer and CFG branch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, overload

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
    """The entries of one request, with their bytes accounted.

    Args:
        budget: most bytes to hold on the device of the tensors, or None for no limit.
        spill: whether what is over the budget goes to host memory, to be fetched for each use; otherwise it is let go.
    """

    def __init__(self, budget: int | None = None, *, spill: bool = True) -> None:
        self.budget = budget
        self.spill = spill
        self._device: dict[CacheKey, CacheEntry] = {}
        self._host: dict[CacheKey, CacheEntry] = {}
        self._devices: dict[CacheKey, torch.device] = {}
        self.refused: set[CacheKey] = set()
        self.nbytes = self.peak_nbytes = 0
        self.host_nbytes = self.peak_host_nbytes = 0

    def get(self, key: CacheKey) -> CacheEntry:
        """The entry of ``key`` on its device, empty if nothing was kept."""
        entry = self._device.get(key, CacheEntry())
        spilled = self._host.get(key)
        if spilled is None:
            return entry
        device = self._devices[key]
        lse = entry.lse if spilled.lse is None else spilled.lse.to(device, non_blocking=True)
        return CacheEntry(lse, entry.index if spilled.index is None else _moved(spilled.index, device))

    def put(self, key: CacheKey, entry: CacheEntry) -> None:
        """Replace the entry of ``key``: the index first, which every sparse step reads, then the LSE.

        An index that is neither within the budget nor spilled is refused, and its layer stays dense.
        """
        for place in (self._device, self._host):
            place.pop(key, None)
        self._account()
        device, host = CacheEntry(), CacheEntry()
        for name in ("index", "lse"):
            tensors = getattr(entry, name)
            if tensors is None:
                continue
            if self.budget is None or self.nbytes + device.nbytes + tensors.nbytes <= self.budget:
                device = replace(device, **{name: tensors})
            elif self.spill:
                host = replace(host, **{name: _to_host(tensors)})
            elif name == "index":
                self.refused.add(key)
                break
            self._devices[key] = tensors.device
        self._device[key] = device
        if host.nbytes:
            self._host[key] = host
        self._account()

    def has_index(self, branch: str) -> bool:
        """True once a search of a layer of ``branch`` has ended in a pattern, or in a refusal to keep it."""
        entries = (*self._device.items(), *self._host.items())
        return any(key.branch == branch and entry.index is not None for key, entry in entries) or any(
            key.branch == branch for key in self.refused
        )

    def drop(self) -> None:
        """Let go of every tensor. The peaks stay readable."""
        for place in (self._device, self._host):
            place.clear()
        self._account()

    def _account(self) -> None:
        self.nbytes = sum(entry.nbytes for entry in self._device.values())
        self.host_nbytes = sum(entry.nbytes for entry in self._host.values())
        self.peak_nbytes = max(self.peak_nbytes, self.nbytes)
        self.peak_host_nbytes = max(self.peak_host_nbytes, self.host_nbytes)


@overload
def _to_host(kept: torch.Tensor) -> torch.Tensor: ...
@overload
def _to_host(kept: BlockIndex) -> BlockIndex: ...
def _to_host(kept: torch.Tensor | BlockIndex) -> torch.Tensor | BlockIndex:
    """A copy in host memory, pinned where that makes fetching it faster."""
    if isinstance(kept, BlockIndex):
        return replace(kept, ids=_to_host(kept.ids), counts=_to_host(kept.counts))
    return torch.empty(kept.shape, dtype=kept.dtype, pin_memory=kept.is_cuda).copy_(kept)


def _moved(index: BlockIndex, device: torch.device) -> BlockIndex:
    ids, counts = (x.to(device, non_blocking=True) for x in (index.ids, index.counts))
    return replace(index, ids=ids, counts=counts)
