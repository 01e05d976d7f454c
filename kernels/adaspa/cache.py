"""Cache of one request between denoising steps: LSE, block index and residual, per layer and CFG branch."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from adaspa.index import BlockIndex
from adaspa.packed_index import PackedIndex

WORTH_PACKING = 2**22
"""Lists of fewer bytes stay as they are where there is no budget: laying them out anew in every step takes its time."""


class CacheKey(NamedTuple):
    """Key of a pattern, which is stable across denoising steps, never across layers or CFG branches.

    ``sample`` is the sample of a batch whose sequences differ in length, None where one entry holds the whole batch.
    """

    branch: str
    layer: int
    sample: int | None = None


@dataclass(frozen=True, eq=False)
class CacheEntry:
    """Entry of a layer: what it keeps from its last search.

    Args:
        lse: natural-log LSE of every query row, fp32 ``[B, H, S]``, or None once no later step will search.
        index: the pattern in use, or None before the first search.
    """

    lse: torch.Tensor | None = None
    index: BlockIndex | None = None

    @property
    def device(self) -> torch.device:
        """Device of the tensors, of which there must be at least one."""
        if self.lse is not None:
            return self.lse.device
        assert self.index is not None, "an entry holds something"
        return self.index.ids.device


@dataclass
class _Kept:
    """Rest of an entry, where it lies, and the device where it is used."""

    device: torch.device
    lse: torch.Tensor | None = None
    index: BlockIndex | PackedIndex | None = None
    lse_on_host: bool = False


@dataclass
class _Residual:
    """Residual, where it lies, and the device where it is used."""

    device: torch.device
    mean: torch.Tensor


class RequestCache:
    """Entries of one request, with their bytes accounted.

    Large block lists are kept without their padding, with a budget the small ones too; what still does not fit the
    budget goes to the host or is let go: the LSEs, which only searches read, before any index or residual.

    Args:
        budget: most bytes to hold on the device of the tensors, or None for no limit.
        spill: whether what is over the budget goes to host memory, to be fetched for each use; otherwise it is let go.
    """

    def __init__(self, budget: int | None = None, *, spill: bool = True) -> None:
        self.budget = budget
        self.spill = spill
        self._kept: dict[CacheKey, _Kept] = {}
        self._bytes: dict[Hashable, tuple[int, int]] = {}
        self.refused: set[CacheKey] = set()
        self._residuals: dict[CacheKey, _Residual] = {}
        self.nbytes = self.peak_nbytes = 0
        self.host_nbytes = self.peak_host_nbytes = 0

    def held(self) -> list[CacheKey]:
        """List the keys that have an entry."""
        return list(self._kept)

    def has(self, key: CacheKey) -> tuple[bool, bool]:
        """Tell whether there is an LSE and an index at ``key``, without fetching them."""
        kept = self._kept.get(key)
        return (False, False) if kept is None else (kept.lse is not None, kept.index is not None)

    def lse(self, key: CacheKey) -> torch.Tensor | None:
        """Fetch the LSE of ``key`` to its device, None if none was kept."""
        kept = self._kept.get(key)
        return None if kept is None or kept.lse is None else kept.lse.to(kept.device, non_blocking=True)

    def index(self, key: CacheKey) -> BlockIndex | None:
        """Fetch the index of ``key`` to its device, None if none was kept."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        return kept.index.unpack(kept.device) if isinstance(kept.index, PackedIndex) else kept.index

    def put(self, key: CacheKey, entry: CacheEntry) -> None:
        """Replace the entry of ``key``: the index first, which every sparse step reads, then the LSE.

        An index that is neither within the budget, if need be in the place of LSEs of other keys, nor spilled is
        refused, and its layer stays dense.
        """
        self._kept.pop(key, None)
        self._account(key, 0, 0)
        kept = _Kept(entry.device)
        on_device = on_host = 0
        if entry.index is not None:
            index = self._compact(entry.index)
            if self._make_room(index.nbytes):
                kept.index, on_device = index, index.nbytes
            elif self.spill:
                assert isinstance(index, PackedIndex), "with a budget it is"
                kept.index, on_host = _to_host(index), index.nbytes
            else:
                self.refused.add(key)
                return
        if entry.lse is not None:
            if self._fits(on_device + entry.lse.nbytes):
                kept.lse, on_device = entry.lse, on_device + entry.lse.nbytes
            elif self.spill:
                kept.lse, kept.lse_on_host = _pinned(entry.lse), True
                on_host += entry.lse.nbytes
        self._kept[key] = kept
        self._account(key, on_device, on_host)

    def replace_lse(self, key: CacheKey, lse: torch.Tensor) -> None:
        """Put an LSE of the same size in the place of that of ``key``, wherever it lies."""
        kept = self._kept[key]
        kept.lse = _pinned(lse) if kept.lse_on_host else lse

    def residual(self, key: CacheKey) -> torch.Tensor | None:
        """Fetch the residual of ``key`` to its device, None if none was kept."""
        kept = self._residuals.get(key)
        return None if kept is None else kept.mean.to(kept.device, non_blocking=True)

    def put_residual(self, key: CacheKey, residual: torch.Tensor) -> bool:
        """Replace the residual of ``key``. False if it is neither within the budget nor spilled, and was let go."""
        self.drop_residual(key)
        fits = self._make_room(residual.nbytes)
        if not fits and not self.spill:
            return False
        self._residuals[key] = _Residual(residual.device, residual if fits else _pinned(residual))
        self._account((key, "residual"), *((residual.nbytes, 0) if fits else (0, residual.nbytes)))
        return True

    def drop_residual(self, key: CacheKey) -> None:
        """Let go of the residual of ``key``, if there is one."""
        self._residuals.pop(key, None)
        self._account((key, "residual"), 0, 0)

    def refuse(self, key: CacheKey) -> None:
        """Let go of the entry of ``key`` for the rest of the request: its layer stays dense."""
        self._kept.pop(key, None)
        self._account(key, 0, 0)
        self.refused.add(key)

    def drop(self) -> None:
        """Let go of every tensor. The peaks stay readable."""
        self._kept.clear()
        self._bytes.clear()
        self._residuals.clear()
        self.nbytes = self.host_nbytes = 0

    def _compact(self, index: BlockIndex) -> BlockIndex | PackedIndex:
        """Drop its padding if memory is limited or a good part of it is saved."""
        if self.budget is None and index.ids.nbytes < WORTH_PACKING:
            return index
        packed = PackedIndex.pack(index)
        return index if self.budget is None and packed.ids.nbytes > 0.8 * index.ids.nbytes else packed

    def _make_room(self, nbytes: int) -> bool:
        """Make room for an index of ``nbytes``: LSEs go to the host, or are let go. False if that was not enough."""
        # The newest goes first: it is the last to be read.
        lses = [
            (key, kept, kept.lse)
            for key, kept in reversed(self._kept.items())
            if kept.lse is not None and not kept.lse_on_host
        ]
        if not self._fits(nbytes - sum(lse.nbytes for _, _, lse in lses)):
            return False
        for key, kept, lse in lses:
            if self._fits(nbytes):
                break
            on_device, on_host = self._bytes[key]
            if self.spill:
                kept.lse, kept.lse_on_host, on_host = _pinned(lse), True, on_host + lse.nbytes
            else:
                kept.lse = None
            self._account(key, on_device - lse.nbytes, on_host)
        return True

    def _fits(self, nbytes: int) -> bool:
        return self.budget is None or self.nbytes + nbytes <= self.budget

    def _account(self, of: Hashable, on_device: int, on_host: int) -> None:
        before_device, before_host = self._bytes.get(of, (0, 0))
        self._bytes[of] = (on_device, on_host)
        self.nbytes += on_device - before_device
        self.host_nbytes += on_host - before_host
        self.peak_nbytes = max(self.peak_nbytes, self.nbytes)
        self.peak_host_nbytes = max(self.peak_host_nbytes, self.host_nbytes)


def _to_host(index: PackedIndex) -> PackedIndex:
    return replace(index, ids=_pinned(index.ids), counts=_pinned(index.counts))


def _pinned(x: torch.Tensor) -> torch.Tensor:
    """A copy in host memory, pinned where it has to come back to a GPU."""
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=x.is_cuda).copy_(x)
