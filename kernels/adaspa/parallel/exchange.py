"""Exchange before and behind attention: some tokens of all heads against all tokens of some heads (Ulysses)."""

from collections.abc import Sequence
from typing import Any

import torch

from adaspa.deal import Deal
from adaspa.parallel.dealt_heads import DealtHeads, indices
from adaspa.parallel.ranks import Ranks


class Exchange:
    """Exchange of one layer's attention.

    Rows are laid out before all else, ``[S, B, H, D]``, so that what the ranks send lies in order as it comes.

    Args:
        ranks: that hold the sequence.
        deal: the heads that each of them attends with.
        tokens: that each of them holds.
        whole: rows behind them that every rank has, as the text of a joint sequence.
    """

    def __init__(self, ranks: Ranks, deal: Deal, tokens: Sequence[int], whole: int, device: torch.device) -> None:
        self.ranks = ranks
        self.deal = deal
        self.tokens = tokens
        self.whole = whole
        self.heads = DealtHeads(ranks, deal, device)
        self._local, self._all = tokens[ranks.rank], sum(tokens)
        self._hands = [_places(hand, device) for hand in deal.hands]
        self._own = len(deal.hands[ranks.rank])

    def to_heads(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Each ``[B, own tokens + whole, H, D]`` as ``[B, tokens + whole, own heads, D]``.

        One is packed while those before it are on their way.
        """
        sent = [self._send(x) for x in tensors]
        for _, work in sent:
            work.wait()
        return tuple(rows.transpose(0, 1) for rows, _ in sent)

    def _send(self, x: torch.Tensor) -> tuple[torch.Tensor, Any]:
        batch, _, _, width = x.shape
        each = batch * width
        video = x[:, : self._local].transpose(0, 1)
        packed = x.new_empty(self._local * each * x.shape[2])
        sizes = [self._local * each * len(hand) for hand in self.deal.hands]
        for part, hand in zip(packed.split(sizes), self._hands, strict=True):
            _take(video, hand, part.view(self._local, batch, -1, width))
        rows = x.new_empty(self._all + self.whole, batch, self._own, width)
        _take(x[:, self._local :].transpose(0, 1), self._hands[self.ranks.rank], rows[self._all :])
        _, work = self.ranks.exchange(
            packed, sizes, [count * each * self._own for count in self.tokens], rows[: self._all].view(-1)
        )
        return rows, work

    def to_tokens(self, out: torch.Tensor) -> torch.Tensor:
        """``[B, tokens + whole, own heads, D]`` as ``[B, own tokens + whole, H, D]``."""
        batch, _, _, width = out.shape
        each = batch * width
        rows = out.transpose(0, 1)
        received, work = self.ranks.exchange(
            rows[: self._all].contiguous().view(-1),
            [count * each * self._own for count in self.tokens],
            sizes := [self._local * each * len(hand) for hand in self.deal.hands],
        )
        result = out.new_empty(batch, self._local + self.whole, len(self.deal.order), width)
        if self.whole:
            result[:, self._local :] = self.heads.gather(out[:, self._all :].transpose(1, 2)).transpose(1, 2)
        work.wait()
        video = result[:, : self._local].transpose(0, 1)
        for part, hand in zip(received.split(sizes), self._hands, strict=True):
            _put(video, hand, part.view(self._local, batch, -1, width))
        return result


def _places(hand: tuple[int, ...], device: torch.device) -> slice | torch.Tensor:
    """Heads that follow each other as a slice, which is copied faster."""
    if hand[-1] - hand[0] == len(hand) - 1:
        return slice(hand[0], hand[-1] + 1)
    return indices(hand, device)


def _take(x: torch.Tensor, hand: slice | torch.Tensor, out: torch.Tensor) -> None:
    if isinstance(hand, slice):
        out.copy_(x[:, :, hand])
    else:
        torch.index_select(wide(x), 2, hand, out=wide(out))


def _put(x: torch.Tensor, hand: slice | torch.Tensor, part: torch.Tensor) -> None:
    if isinstance(hand, slice):
        x[:, :, hand] = part
    else:
        wide(x).index_copy_(2, hand, wide(part))


def wide(x: torch.Tensor) -> torch.Tensor:
    """View the same bytes in elements of 16, if they are so laid out: a GPU copies them several times as fast."""
    elements = 16 // x.element_size()
    places = (x.shape[-1], x.storage_offset(), *x.stride()[:-1])
    if x.stride(-1) != 1 or any(place % elements for place in places):
        return x
    return x.view(torch.complex128)
