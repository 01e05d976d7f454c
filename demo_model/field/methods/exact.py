"""Ours: the exact mass of every block, searched for once or twice.

With one search and a high retained mass it is LoSA's way: a threshold on the mass, one search, frozen lists.
"""

import torch
from adaspa.probe import sampled
from adaspa.selection import Geometry, Policy, Scored, Search
from torch import Tensor

from demo_model.field.call import BLOCK, Call, Method, Outcome, block_mean, dense_outcome, share_of

SCORING = 0.5  # of a dense call: the product of queries and keys without that of weights and values


class Exact(Method):
    """The blocks that a policy of the library selects by their exact mass.

    Args:
        policy: what chooses among the blocks.
        searches: steps that search, as in the library: the first has dense output and scores by the LSE of the step
            before, later ones by the LSE of the first.
    """

    extra = 0.0
    """Further cost of a sparse call, in dense calls."""

    def __init__(self, policy: Policy, searches: tuple[int, ...]) -> None:
        self.policy, self.searches = policy, searches
        self.lse: dict[tuple[int, int], Tensor] = {}
        self.keep: dict[tuple[int, int], Tensor] = {}

    def last_warmup(self, call: Call) -> None:
        self.lse[call.place.site] = call.lse

    def attend(self, call: Call) -> Outcome:
        site, step = call.place.site, call.place.step
        router = self.extra
        if site not in self.keep or step in self.searches:
            stale = self.lse.get(site, call.lse)
            first = site not in self.keep
            if first:
                self.lse[site] = call.lse
            self.search(call, block_mean(call.mass_by_block * (call.lse - stale).exp()))
            if first:
                return dense_outcome(call, self.probing(call))
            router += SCORING
        keep = self.keep[site]
        return Outcome(self.output(call, keep), keep, share_of(keep), router)

    def probing(self, call: Call) -> float:
        """Cost of the blocks that the library looks at besides, in dense calls."""
        some = len(sampled(Geometry(call.q.shape[2], BLOCK, BLOCK)))
        return some / call.blocks * float(share_of(self.keep[call.place.site]).mean())

    def search(self, call: Call, mass: Tensor) -> None:
        """Choose the blocks by their mass ``[B, H, nq, nk]``, which sums to 1 in each row but for a stale LSE."""
        self.keep[call.place.site] = selected(self.policy, call, mass)

    def output(self, call: Call, keep: Tensor) -> Tensor:
        return call.sparse(keep)


def selected(policy: Policy, call: Call, mass: Tensor) -> Tensor:
    """The blocks that a policy of the library keeps."""
    geometry = Geometry(call.q.shape[2], BLOCK, BLOCK)
    mask: Tensor = policy.select(
        Search(call.q, call.k, (mass * BLOCK).contiguous(), geometry, call.grid)
    ).index.to_mask()
    return mask


class EveryStep(Method):
    """The blocks that a policy selects anew in every step.

    Args:
        policy: what chooses among the blocks.
        router: cost of its scores, in dense calls.
    """

    def __init__(self, policy: Policy, router: float) -> None:
        self.policy, self.router = policy, router

    def attend(self, call: Call) -> Outcome:
        if isinstance(self.policy, Scored):  # by scores of its own
            mass = call.q.new_ones(*call.q.shape[:2], call.blocks, call.blocks, dtype=torch.float32)
        else:
            mass = block_mean(call.mass_by_block)
        keep = selected(self.policy, call, mass)
        return Outcome(call.sparse(keep), keep, share_of(keep), self.router)


def sub_block_router(tokens: int) -> float:
    """Cost of the products of all sub-blocks' means, in dense calls."""
    return SCORING / tokens**2
