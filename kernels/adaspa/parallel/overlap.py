"""A layer's attention with the heads of a rank, part by part: while it attends with one, others are on their way."""

from collections.abc import Callable, Sequence

import torch

from adaspa.deal import Deal
from adaspa.heads import Heads
from adaspa.parallel.dealt_heads import DealtHeads, PartOfHeads
from adaspa.parallel.exchange import Exchange
from adaspa.parallel.ranks import Ranks

PARTS = 1
"""Number of parts of a rank's heads, in calls that neither search nor leave anything behind."""

QKV = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Attend = Callable[[Heads, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Overlap:
    """Exchange of one layer's attention, and what happens meanwhile.

    Args:
        ranks: that hold the sequence.
        deal: the heads that each of them attends with.
        tokens: that each of them holds.
        whole: rows behind them that every rank has, as the text of a joint sequence.
        parts: maximum number of parts; a rank with fewer heads lowers it for all.
    """

    def __init__(
        self, ranks: Ranks, deal: Deal, tokens: Sequence[int], whole: int, device: torch.device, *, parts: int
    ) -> None:
        self.whole = whole
        self.tokens = tokens[ranks.rank]
        self.all_heads = DealtHeads(ranks, deal, device)
        split = deal.split(parts)
        self._exchanges = [Exchange(ranks, hands, tokens, whole, device) for hands in split]
        self._heads: list[Heads] = [self.all_heads]
        if len(split) > 1:
            sizes = [len(hands[ranks.rank]) for hands in split]
            self._heads = list(PartOfHeads.all(ranks, deal, device, sizes))

    def attend(self, qkv: QKV, attend: Attend) -> torch.Tensor:
        """Attention ``[B, own tokens + whole, H, D]`` of queries, keys and values of that shape.

        Args:
            attend: called for each part with ``[B, tokens + whole, own heads, D]``.
        """
        coming = [[exchange.to_heads(x) for x in qkv] for exchange in self._exchanges]
        going, texts = [], []
        for exchange, heads, some in zip(self._exchanges, self._heads, coming, strict=True):
            out = attend(heads, *(one.arrived().transpose(0, 1) for one in some))
            some.clear()
            going.append(exchange.to_tokens(out))
            texts.append(out[:, out.shape[1] - self.whole :])
        result = torch.empty_like(qkv[0])
        if self.whole:
            text = torch.cat(texts, dim=2) if len(texts) > 1 else texts[0]
            result[:, self.tokens :] = self.all_heads.gather(text.transpose(1, 2)).transpose(1, 2)
        for exchange, came in zip(self._exchanges, going, strict=True):
            exchange.put(came, result)
        return result
