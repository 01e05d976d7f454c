"""Exchange before and behind attention: some tokens of all heads against all tokens of some heads (Ulysses)."""

from collections.abc import Sequence

import torch

from adaspa.deal import Deal
from adaspa.parallel.dealt_heads import DealtHeads, indices
from adaspa.parallel.ranks import Landing, Ranks


class Exchange:
    """Exchange of one layer's attention.

    Rows are laid out before all else, ``[S, B, H, D]``, so that what the ranks send lies in order as it comes. What
    stays on a rank is copied while the rest is on its way. These are the largest tensors of a forward: none is kept
    longer than it is read.

    Args:
        ranks: that hold the sequence.
        deal: the heads that each of them attends with.
        tokens: that each of them holds.
    """

    def __init__(self, ranks: Ranks, deal: Deal, tokens: Sequence[int], device: torch.device) -> None:
        self.ranks = ranks
        self.deal = deal
        self.tokens = tokens
        self.heads = DealtHeads(ranks, deal, device)
        self._hands = [_places(hand, device) for hand in deal.hands]
        self._peers = [rank for rank in range(ranks.size) if rank != ranks.rank]

    def to_heads(self, qkv: list[torch.Tensor], text: Sequence[torch.Tensor] = ()) -> list[torch.Tensor]:
        """Each ``[B, own tokens, H, D]`` as ``[B, tokens + text, own heads, D]``.

        Args:
            qkv: emptied.
            text: the same of rows behind them that every rank has, ``[B, text, H, D]``, if there are such.
        """
        received: list[torch.Tensor] = []
        landings: list[Landing] = []
        while qkv:
            if len(landings) > 1:  # one is packed while another is on its way; a third would only take memory
                landings.pop(0)()
            rows, landing = self._send(qkv.pop(0), text[len(received)] if text else None)
            received.append(rows)
            landings.append(landing)
        for landing in landings:
            landing()
        return received

    def _send(self, x: torch.Tensor, text: torch.Tensor | None) -> tuple[torch.Tensor, Landing]:
        batch, _, _, width = x.shape
        sizes = [*self.tokens, 0 if text is None else text.shape[1]]
        own = self.ranks.rank
        rows = x.new_empty(sum(sizes), batch, len(self.deal.hands[own]), width)
        parts = rows.split(sizes)
        video = x.transpose(0, 1)
        sent = {}
        for peer in self._peers:
            packed = x.new_empty(len(video), batch, len(self.deal.hands[peer]), width)
            _take(video, self._hands[peer], packed)
            sent[peer] = [packed]
        landing = self.ranks.trade(sent, {peer: [parts[peer]] for peer in self._peers})
        _take(video, self._hands[own], parts[own])
        if text is not None:
            _take(text.transpose(0, 1), self._hands[own], parts[-1])
        return rows.transpose(0, 1), landing

    def to_tokens(self, out: torch.Tensor) -> torch.Tensor:
        """``[B, tokens + text, own heads, D]`` as ``[B, own tokens + text, H, D]``."""
        batch, rows, _, width = out.shape
        own, text = self.ranks.rank, rows - sum(self.tokens)
        sizes = [self.tokens[own], text]
        parts = out.transpose(0, 1).contiguous().split([*self.tokens, text])
        arrived = {peer: out.new_empty(sum(sizes), batch, len(self.deal.hands[peer]), width) for peer in self._peers}
        landing = self.ranks.trade(
            {peer: [parts[peer], parts[-1]] for peer in self._peers},
            {peer: list(part.split(sizes)) for peer, part in arrived.items()},
        )
        result = out.new_empty(batch, sum(sizes), len(self.deal.order), width)
        for place, part in zip(result.transpose(0, 1).split(sizes), (parts[own], parts[-1]), strict=True):
            _put(place, self._hands[own], part)
        landing()
        for peer, part in arrived.items():
            _put(result.transpose(0, 1), self._hands[peer], part)
        return result


def _places(hand: tuple[int, ...], device: torch.device) -> slice | torch.Tensor:
    """Heads that follow each other as a slice, which needs no indices."""
    if hand[-1] - hand[0] == len(hand) - 1:
        return slice(hand[0], hand[-1] + 1)
    return indices(hand, device)


def _take(x: torch.Tensor, hand: slice | torch.Tensor, part: torch.Tensor) -> None:
    """Copy the heads of a hand from ``[S, B, H, D]``."""
    x, part = _wide(x, part)
    if isinstance(hand, slice):
        part.copy_(x[:, :, hand])
    else:
        torch.index_select(x, 2, hand, out=part)


def _put(x: torch.Tensor, hand: slice | torch.Tensor, part: torch.Tensor) -> None:
    """Copy the heads of a hand into ``[S, B, H, D]``."""
    x, part = _wide(x, part)
    if isinstance(hand, slice):
        x[:, :, hand] = part
    else:
        x.index_copy_(2, hand, part)


def _wide(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """View the same bytes in elements of 16, if all are so laid out: a GPU copies them several times as fast."""
    elements = 16 // tensors[0].element_size()
    for x in tensors:
        places = (x.shape[-1], x.storage_offset(), *x.stride()[:-1])
        if x.stride(-1) != 1 or any(place % elements for place in places):
            return tensors
    return tuple(x.view(torch.complex128) for x in tensors)
