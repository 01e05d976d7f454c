"""One call of self-attention, computed in the open: every score is there to be looked at."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 64
GRID = tuple[int, int, int]


class Place(NamedTuple):
    """Where a call is: denoising step, guidance branch and layer."""

    step: int
    branch: int
    layer: int

    @property
    def site(self) -> tuple[int, int]:
        """What has a pattern of its own."""
        return self.branch, self.layer


class Call:
    """Queries, keys and values ``[B, H, S, D]`` in whole blocks, and what follows from them.

    Raises:
        ValueError: the sequence does not end with a whole block.
    """

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, place: Place, grid: GRID) -> None:
        if q.shape[2] % BLOCK:
            raise ValueError(f"q must have a multiple of {BLOCK} tokens, got {q.shape[2]}")
        self.q, self.k, self.v, self.place, self.grid = q, k, v, place, grid

    @property
    def blocks(self) -> int:
        return self.q.shape[2] // BLOCK

    def scores(self, k: Tensor) -> Tensor:
        """Scaled products of all queries with some keys, fp32."""
        return (self.q.float() @ k.float().mT) * self.q.shape[-1] ** -0.5

    @cached_property
    def logits(self) -> Tensor:
        return self.scores(self.k)

    @cached_property
    def lse(self) -> Tensor:
        """``[B, H, S, 1]``."""
        return self.logits.logsumexp(-1, keepdim=True)

    @cached_property
    def mass_by_block(self) -> Tensor:
        """The softmax mass of each query row in each key block, ``[B, H, S, nk]``."""
        return by_block((self.logits - self.lse).exp_())

    @cached_property
    def dense(self) -> Tensor:
        return F.scaled_dot_product_attention(self.q, self.k, self.v)

    def masked(self, keep: Tensor) -> Tensor:
        """The logits where ``keep``, of blocks ``[B, H, nq, nk]`` or of tokens ``[B, H, S, S]``, is true."""
        if keep.shape[-1] == self.logits.shape[-1]:
            return self.logits.masked_fill(~keep, -torch.inf)
        in_blocks = self.logits.unflatten(-1, (-1, BLOCK)).unflatten(2, (-1, BLOCK))
        return in_blocks.masked_fill(~keep[:, :, :, None, :, None], -torch.inf).flatten(4).flatten(2, 3)

    def sparse(self, keep: Tensor) -> Tensor:
        """The attention over what is kept."""
        return self.masked(keep).softmax(-1).to(self.v.dtype) @ self.v


@dataclass
class Outcome:
    """What a method made of a call.

    Args:
        out: ``[B, H, S, D]``.
        keep: what was attended to exactly, as in `Call.masked`; None for all.
        share: query-key pairs of it, over all of them, for each clip ``[B]``.
        router: cost of everything besides, in dense calls.
        pair: cost of a kept pair, 1 with the product of its query and key.
    """

    out: Tensor
    keep: Tensor | None
    share: Tensor
    router: float = 0.0
    pair: float = 1.0

    @property
    def work(self) -> Tensor:
        return self.share * self.pair + self.router


class Method(ABC):
    """A method at work on a batch of clips; it remembers what it found from step to step."""

    def last_warmup(self, call: Call) -> None:  # noqa: B027 - most methods have no use for it
        """Look at a call of the last dense step."""

    @abstractmethod
    def attend(self, call: Call) -> Outcome:
        """The attention of a step behind the dense warm-up."""


def dense_outcome(call: Call, router: float = 0.0) -> Outcome:
    return Outcome(call.dense, None, torch.ones(len(call.q), device=call.q.device), router)


def by_block(keys: Tensor) -> Tensor:
    """Sums over the key blocks of the last dimension."""
    return keys.unflatten(-1, (-1, BLOCK)).sum(-1)


def block_mean(x: Tensor) -> Tensor:
    """The mean over each block of tokens: ``[B, H, S, D]`` to ``[B, H, nq, D]``."""
    return x.unflatten(2, (-1, BLOCK)).mean(3)


def over_tokens(x: Tensor) -> Tensor:
    """What each block has, for each of its tokens."""
    return x.repeat_interleave(BLOCK, dim=2)


def share_of(keep: Tensor) -> Tensor:
    """The kept share for each clip."""
    return keep.float().mean((1, 2, 3))
