"""Heads that a deal gave this rank."""

from functools import lru_cache

import torch

from adaspa.deal import Deal
from adaspa.parallel.ranks import Ranks


@lru_cache(1024)
def indices(heads: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Heads as a tensor, copied to the device once: each layer's attention needs them anew."""
    return torch.tensor(heads, device=device)


class DealtHeads:
    """Some heads of a layer, the others being those of other ranks: see `adaspa.heads.Heads`."""

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
