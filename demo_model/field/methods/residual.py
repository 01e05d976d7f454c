"""Ours with the mean error of each block of queries, as the search saw it, taken away again in the steps behind."""

from adaspa.residual import fading
from adaspa.selection import Policy
from torch import Tensor

from demo_model.field.call import Call, Outcome, block_mean, dense_outcome, over_tokens, share_of
from demo_model.field.methods.exact import Exact


class Residual(Exact):
    """The lists of `Exact`, and `AdaSpaConfig(compensation="residual")`: every search has dense output.

    Args:
        policy, searches: as of `Exact`.
        steps: of the denoising.
    """

    def __init__(self, policy: Policy, searches: tuple[int, ...], steps: int) -> None:
        super().__init__(policy, searches)
        self.steps = steps
        self.lost: dict[tuple[int, int], tuple[int, Tensor]] = {}

    def attend(self, call: Call) -> Outcome:
        outcome = super().attend(call)
        if outcome.keep is not None and call.place.step not in self.searches:
            return outcome
        keep = self.keep[self.site(call)]
        lost = block_mean(call.dense.float() - call.sparse(keep).float())
        self.lost[call.place.site] = call.place.step, lost
        return dense_outcome(call, self.probing(call) + float(share_of(keep).mean()))

    def output(self, call: Call, keep: Tensor) -> Tensor:
        sparse = call.sparse(keep)
        if call.place.site not in self.lost:
            return sparse
        search, lost = self.lost[call.place.site]
        weight = fading((call.place.step - search) / self.steps)
        return (sparse.float() + weight * over_tokens(lost)).to(sparse.dtype)
