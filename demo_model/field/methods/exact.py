"""Ours: the exact mass of every block, searched for once or twice.

With one search and a high retained mass it is LoSA's way: a threshold on the mass, one search, frozen lists.
"""

import torch
from adaspa.attention import followed
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
            before, later ones by what `adaspa.attention.followed` makes of it.
        shared: whether the guidance branches of a step use the lists of its first one, which alone searches.
    """

    extra = 0.0
    """Further cost of a sparse call, in dense calls."""

    def __init__(self, policy: Policy, searches: tuple[int, ...], *, shared: bool = False) -> None:
        self.policy, self.searches, self.shared = policy, searches, shared
        self.lse: dict[tuple[int, int], Tensor] = {}
        self.keep: dict[tuple[int, int], Tensor] = {}

    def last_warmup(self, call: Call) -> None:
        if not self.follows(call):
            self.lse[call.place.site] = call.lse

    def follows(self, call: Call) -> bool:
        """Whether the call uses the lists of another guidance branch."""
        return self.shared and call.place.branch > 0

    def attend(self, call: Call) -> Outcome:
        site, step = self.site(call), call.place.step
        router = self.extra
        if site not in self.keep or step in self.searches:
            first = step == self.searches[0] or site not in self.keep
            if self.follows(call):
                if first:
                    return dense_outcome(call)
            else:
                stale = self.lse.get(site, call.lse)
                if first:
                    self.lse[site] = call.lse
                self.search(call, block_mean(call.mass_by_block * (call.lse - stale).exp()))
                if first:
                    return dense_outcome(call, self.probing(call))
                router += SCORING
        keep = self.keep[site]
        if step + 1 in self.searches and not self.follows(call):
            kept = call.masked(keep).logsumexp(-1, keepdim=True)
            self.lse[site] = followed(self.lse[site], kept)
        return Outcome(self.output(call, keep), keep, share_of(keep), router)

    def site(self, call: Call) -> tuple[int, int]:
        """Whose lists the call uses."""
        return (0, call.place.layer) if self.shared else call.place.site

    def probing(self, call: Call) -> float:
        """Cost of the blocks that the library looks at besides, in dense calls."""
        some = len(sampled(Geometry(call.q.shape[2], BLOCK, BLOCK)))
        return some / call.blocks * float(share_of(self.keep[self.site(call)]).mean())

    def search(self, call: Call, mass: Tensor) -> None:
        """Choose the blocks by their mass ``[B, H, nq, nk]``, which sums to 1 in each row but for a stale LSE."""
        self.keep[self.site(call)] = selected(self.policy, call, mass)

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
