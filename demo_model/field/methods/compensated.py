"""Ours with something put back for the blocks that are left out."""

from typing import Literal

import torch
from adaspa.selection import Policy
from torch import Tensor

from demo_model.field.call import BLOCK, Call, block_mean, over_tokens
from demo_model.field.methods.exact import Exact
from demo_model.field.methods.sol_attn import ROUTER, with_proxies

Form = Literal["block masses", "proxies", "calibrated proxies"]


class Compensated(Exact):
    """The lists of `Exact`, and for the other blocks their mean values.

    Args:
        policy, searches: as of `Exact`.
        form: ``block masses`` weighs the mean value of a block by its mass at the search; ``proxies`` by its mean key
            within the softmax, as Sol-Attn does; ``calibrated proxies`` adds to that score what it lacked at the
            search, for each pair of blocks.
    """

    def __init__(self, policy: Policy, searches: tuple[int, ...], form: Form) -> None:
        super().__init__(policy, searches)
        self.form = form
        self.extra = ROUTER / 2 if form == "block masses" else ROUTER
        self.known: dict[tuple[int, int], Tensor] = {}

    def search(self, call: Call, mass: Tensor) -> None:
        super().search(call, mass)
        known = mass / mass.sum(-1, keepdim=True)
        if self.form == "calibrated proxies":
            proxies = BLOCK * block_mean((call.scores(block_mean(call.k.float())) - call.lse).exp())
            known = (known.clamp(min=1e-9) / proxies.clamp(min=1e-9)).log()
        self.known[call.place.site] = known

    def output(self, call: Call, keep: Tensor) -> Tensor:
        known = self.known[call.place.site]
        if self.form == "block masses":
            left = torch.where(keep, 0.0, known)
            kept = over_tokens(1 - left.sum(-1, keepdim=True))
            added = over_tokens(left @ block_mean(call.v.float()))
            return (kept * call.sparse(keep) + added).to(call.v.dtype)
        proxies = call.scores(block_mean(call.k.float()))
        if self.form == "calibrated proxies":
            proxies = proxies + over_tokens(known)
        return with_proxies(call, keep, proxies)
