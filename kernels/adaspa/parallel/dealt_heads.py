"""Heads that a deal gave this rank."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import torch

from adaspa.deal import Deal
from adaspa.index import BlockIndex
from adaspa.parallel.ranks import Ranks


@lru_cache(1024)
def indices(heads: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Heads as a tensor, copied to the device once: each layer's attention needs them anew."""
    return torch.tensor(heads, device=device)


class DealtHeads:
    """Some heads of a layer, the others being those of other ranks: see `adaspa.heads.Heads`."""

    is_first = True

    def __init__(self, ranks: Ranks, deal: Deal, device: torch.device) -> None:
        self.ranks = ranks
        self.deal = deal
        self.device = device

    def total(self, own: int) -> int:
        return len(self.deal.order)

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """Every rank sends its heads to all."""
        received = self.ranks.gather(x.transpose(0, 1).contiguous(), [len(hand) for hand in self.deal.hands])
        every = torch.empty_like(received)
        every[indices(tuple(self.deal.order), x.device)] = received
        return every.transpose(0, 1)

    def own(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, list(self.deal.hands[self.ranks.rank])]

    def any(self, value: bool) -> bool:
        return any(self.ranks.integers(int(value), self.device))

    def lists(self, fetch: Callable[[], BlockIndex]) -> BlockIndex:
        return fetch()


class PartOfHeads(DealtHeads):
    """A part of this rank's heads, which are attended with one part after the other.

    Args:
        places: of the heads among those of the rank.
        fetched: the lists of the rank's heads once one of the parts has fetched them.
    """

    def __init__(
        self, ranks: Ranks, deal: Deal, device: torch.device, places: slice, fetched: list[BlockIndex]
    ) -> None:
        super().__init__(ranks, deal, device)
        self.is_first = places.start == 0
        self._places = places
        self._fetched = fetched

    @classmethod
    def all(cls, ranks: Ranks, deal: Deal, device: torch.device, sizes: Sequence[int]) -> Iterator["PartOfHeads"]:
        """All parts, by their numbers of heads."""
        fetched: list[BlockIndex] = []
        start = 0
        for size in sizes:
            yield cls(ranks, deal, device, slice(start, start + size), fetched)
            start += size

    def lists(self, fetch: Callable[[], BlockIndex]) -> BlockIndex:
        if not self._fetched:
            self._fetched.append(fetch())
        (index,) = self._fetched
        return replace(index, ids=index.ids[:, self._places], counts=index.counts[:, self._places])
