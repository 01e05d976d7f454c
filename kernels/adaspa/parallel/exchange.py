"""Exchange before and behind attention: some tokens of all heads against all tokens of some heads (Ulysses)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from adaspa.parallel.dealt_heads import indices
from adaspa.parallel.ranks import Ranks

Hands = tuple[tuple[int, ...], ...]


class OnItsWay(NamedTuple):
    """Rows that arrive once ``work`` is waited for."""

    rows: torch.Tensor
    work: Any

    def arrived(self) -> torch.Tensor:
        """Return the rows, which work that is queued from now on may read."""
        self.work.wait()
        return self.rows


class Exchange:
    """Exchange of some heads of one layer's attention.

    Rows are laid out before all else, ``[S, B, H, D]``, so that what the ranks send lies in order as it comes.

    Args:
        ranks: that hold the sequence.
        hands: the heads that each of them attends with.
        tokens: that each of them holds.
        whole: rows behind them that every rank has, as the text of a joint sequence.
    """

    def __init__(self, ranks: Ranks, hands: Hands, tokens: Sequence[int], whole: int, device: torch.device) -> None:
        self.ranks = ranks
        self.tokens = tokens
        self.whole = whole
        self._local, self._all = tokens[ranks.rank], sum(tokens)
        self._sizes = [len(hand) for hand in hands]
        self._hands = [_places(hand, device) for hand in hands]
        self._own = len(hands[ranks.rank])

    def to_heads(self, x: torch.Tensor) -> OnItsWay:
        """``[B, own tokens + whole, H, D]`` as ``[tokens + whole, B, own heads, D]``."""
        batch, _, _, width = x.shape
        each = batch * width
        video = x[:, : self._local].transpose(0, 1)
        packed = x.new_empty(self._local * each * sum(self._sizes))
        sizes = [self._local * each * heads for heads in self._sizes]
        for part, hand in zip(packed.split(sizes), self._hands, strict=True):
            _take(video, hand, part.view(self._local, batch, -1, width))
        rows = x.new_empty(self._all + self.whole, batch, self._own, width)
        _take(x[:, self._local :].transpose(0, 1), self._hands[self.ranks.rank], rows[self._all :])
        _, work = self.ranks.exchange(
            packed, sizes, [count * each * self._own for count in self.tokens], rows[: self._all].view(-1)
        )
        return OnItsWay(rows, work)

    def to_tokens(self, out: torch.Tensor) -> OnItsWay:
        """``[B, tokens + whole, own heads, D]`` as what `put` takes."""
        batch, _, _, width = out.shape
        each = batch * width
        return OnItsWay(
            *self.ranks.exchange(
                out.transpose(0, 1)[: self._all].contiguous().view(-1),
                [count * each * self._own for count in self.tokens],
                [self._local * each * heads for heads in self._sizes],
            )
        )

    def put(self, came: OnItsWay, result: torch.Tensor) -> None:
        """Write what came to these heads of ``[B, own tokens + whole, H, D]``."""
        batch, _, _, width = result.shape
        sizes = [self._local * batch * width * heads for heads in self._sizes]
        video = result[:, : self._local].transpose(0, 1)
        for part, hand in zip(came.arrived().split(sizes), self._hands, strict=True):
            _put(video, hand, part.view(self._local, batch, -1, width))


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
