"""Errors by design: a dense output that is spoilt in one way only, to see what that way costs."""

from typing import Literal

import torch
from torch import Tensor

from demo_model.field.call import Call, Method, Outcome, block_mean, dense_outcome, over_tokens
from demo_model.field.measures import stretch

Kind = Literal["each token", "shared by 64", "each token, new in each step", "shared by 64, new in each step", "scale"]
Part = Literal["shared by 64", "private", "without stretch", "half"]


class Injected(Method):
    """Dense attention with noise, or with another length.

    Args:
        kind: noise that differs from token to token or is the same for 64 neighbours, the same in all steps or new in
            each; or a factor on the output.
        size: of the error, relative to the output of its head; for ``scale`` its sign counts.
    """

    def __init__(self, kind: Kind, size: float) -> None:
        self.kind, self.size = kind, size

    def attend(self, call: Call) -> Outcome:
        outcome, out = dense_outcome(call), call.dense.float()
        if self.kind == "scale":
            outcome.out = (out * (1 + self.size)).to(call.v.dtype)
            return outcome
        step, branch, layer = call.place
        seed = 1000 * branch + layer + (10_000 * step if "new" in self.kind else 0)
        generator = torch.Generator(out.device).manual_seed(seed)
        shared = self.kind.startswith("shared")
        shape = block_mean(out).shape if shared else out.shape
        noise = torch.randn(shape, generator=generator, device=out.device)
        loud = out.square().mean((2, 3), keepdim=True).sqrt()
        outcome.out = (out + self.size * loud * (over_tokens(noise) if shared else noise)).to(call.v.dtype)
        return outcome


class OnePart(Method):
    """The dense output with one part of the error of a method.

    Args:
        method: whose error it is.
        part: what is taken of it: the mean over each 64 neighbours, what differs from that, all but its projection on
            the output (head by head), or half of all.
    """

    def __init__(self, method: Method, part: Part) -> None:
        self.method, self.part = method, part

    def last_warmup(self, call: Call) -> None:
        self.method.last_warmup(call)

    def attend(self, call: Call) -> Outcome:
        outcome = self.method.attend(call)
        if outcome.keep is None:
            return outcome
        dense = call.dense.float()
        outcome.out = (dense + self._of(outcome.out.float() - dense, dense)).to(call.v.dtype)
        return outcome

    def _of(self, error: Tensor, dense: Tensor) -> Tensor:
        if self.part == "half":
            return error / 2
        if self.part in ("shared by 64", "private"):
            shared = over_tokens(block_mean(error))
            return shared if self.part == "shared by 64" else error - shared
        return error - stretch(error, dense)[..., None, None] * dense


class Between(Method):
    """A method in some steps, dense attention in all others.

    Args:
        method: what runs from step ``first`` up to ``last`` exclusively.
    """

    def __init__(self, method: Method, first: int, last: int) -> None:
        self.method, self.steps = method, range(first, last)

    def attend(self, call: Call) -> Outcome:
        return self.method.attend(call) if call.place.step in self.steps else dense_outcome(call)


class ByLayer(Method):
    """One method in some layers, another in all others.

    Args:
        method, others: what runs in ``layers``, and elsewhere.
    """

    def __init__(self, method: Method, others: Method, layers: tuple[int, ...]) -> None:
        self.method, self.others, self.layers = method, others, layers

    def last_warmup(self, call: Call) -> None:
        self._of(call).last_warmup(call)

    def attend(self, call: Call) -> Outcome:
        return self._of(call).attend(call)

    def _of(self, call: Call) -> Method:
        return self.method if call.place.layer in self.layers else self.others
