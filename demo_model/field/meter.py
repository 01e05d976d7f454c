"""The self-attention of a Wan transformer, metered: a method attends, and its cost and losses are added up."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from adaspa.models.processor import norm_heads, project, project_out, rotate, split_heads
from torch import Tensor

from demo_model.field.call import Call, Method, Place
from demo_model.field.measures import Tally

LOOKED_AT = (0.56, 0.96)
"""Shares of the steps: where the calls are looked at closely."""


class Attends(Protocol):
    """What self-attention is handed to."""

    def begin_forward(self, module: Any, given: dict[str, Any], /) -> None:
        """Hear of a forward of the transformer, with its keyword arguments."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        """Attention of a layer, all ``[B, H, S, D]``."""


class Meter:
    """Runs a method behind the warm-up, and adds up what it cost and lost.

    Args:
        method: None for dense attention throughout.
        steps: of the denoising.
        branches: forwards in each step.
        warmup: steps that are dense before it.
    """

    def __init__(self, method: Method | None, steps: int, branches: int, warmup: int) -> None:
        self.method, self.steps, self.branches, self.warmup = method, steps, branches, warmup
        self.forwards, self.grid, self.tally = -1, (0, 0, 0), Tally()
        self.work: list[Tensor] = []
        self.share: list[Tensor] = []
        self.router: list[float] = []

    def begin_forward(self, _: Any, given: dict[str, Any]) -> None:
        self.forwards += 1
        self.grid = tuple(given["hidden_states"].shape[2:])

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        """``[B, H, S, D]``."""
        step, branch = divmod(self.forwards, self.branches)
        call = Call(q, k, v, Place(step, branch, layer), self.grid)
        if self.method is None or step < self.warmup:
            if self.method is not None and step == self.warmup - 1:
                self.method.last_warmup(call)
            self.work.append(torch.ones(len(q), device=q.device))
            return call.dense
        outcome = self.method.attend(call)
        self.work.append(outcome.work)
        if outcome.keep is not None:
            self.share.append(outcome.share)
            self.router.append(outcome.router)
        if step in {int(share * self.steps) for share in LOOKED_AT}:
            self.tally.look(call, outcome)
        return outcome.out

    def figures(self) -> dict[str, Any]:
        """Attention work of the whole denoising, density and router's cost of its sparse calls, and what was lost."""
        work = torch.stack(self.work).mean(0).tolist()
        share = torch.stack(self.share).mean(0).tolist() if self.share else [1.0] * len(work)
        router = sum(self.router) / len(self.router) if self.router else 0.0
        return {"work": work, "density": share, "router": router, **self.tally.figures()}


class OpenProcessor:
    """Self-attention of a Wan layer whose attention is the meter's."""

    def __init__(self, meter: Attends, layer: int) -> None:
        self.meter, self.layer = meter, layer

    def __call__(
        self, attn: Any, hidden_states: Tensor, _: None, __: None, rotary_emb: tuple[Tensor, Tensor]
    ) -> Tensor:
        qkv = split_heads(attn, norm_heads(project(attn, hidden_states), attn.norm_q, attn.norm_k))
        cos, sin = (table[0, :, 0] for table in rotary_emb)
        rotate(qkv, (cos, sin))
        query, key, value = (x.transpose(1, 2) for x in qkv)
        out = self.meter.attend(query, key, value, self.layer)
        return project_out(attn, out.transpose(1, 2).flatten(2, 3))


@contextmanager
def metered(transformer: Any, meter: Attends) -> Iterator[None]:
    """The transformer's self-attention through the meter."""
    before = [block.attn1.processor for block in transformer.blocks]
    hook = transformer.register_forward_pre_hook(
        lambda module, args, given: meter.begin_forward(module, given), with_kwargs=True
    )
    for layer, block in enumerate(transformer.blocks):
        block.attn1.set_processor(OpenProcessor(meter, layer))
    try:
        yield
    finally:
        hook.remove()
        for block, processor in zip(transformer.blocks, before, strict=True):
            block.attn1.set_processor(processor)
