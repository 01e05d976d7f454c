"""The heads that a deal gave this rank."""

import torch

from adaspa.deal import Deal
from adaspa.parallel.ranks import Ranks


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
        rows = x.transpose(0, 1).contiguous()
        each = rows[0].numel()
        received, work = self.ranks.exchange(
            rows.flatten().repeat(self.ranks.size),
            [rows.numel()] * self.ranks.size,
            [each * len(hand) for hand in self.deal.hands],
        )
        work.wait()
        every = torch.empty_like(received).view(-1, *rows.shape[1:])
        every[torch.tensor(self.deal.order, device=x.device)] = received.view_as(every)
        return every.transpose(0, 1)

    def own(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, list(self.deal.hands[self.ranks.rank])]

    def any(self, value: bool) -> bool:
        return any(self.ranks.integers(int(value), self.device))
