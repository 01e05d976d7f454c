"""Sol-Attn (arXiv 2607.24027): blocks above a threshold are exact, all others one term each in the same softmax."""

import torch

from demo_model.field.call import BLOCK, Call, Method, Outcome, block_mean, over_tokens, share_of

ROUTER = 1 / BLOCK
"""Products of all queries with the pooled keys, and of their weights with the pooled values."""


class SolAttn(Method):
    """A block is exact if the mean query times the mean key exceeds the row's mean by ``beta`` standard deviations.

    Every other block counts as 64 keys at its mean key, with its mean value: the zeroth term of a Taylor series.

    Args:
        beta: the higher, the fewer blocks.
        corrects: whether the other blocks are approximated; they are left out otherwise.
    """

    def __init__(self, beta: float, *, corrects: bool = True) -> None:
        self.beta, self.corrects = beta, corrects

    def attend(self, call: Call) -> Outcome:
        proxies = call.scores(block_mean(call.k.float()))
        routed = block_mean(proxies)
        mean, deviation = routed.mean(-1, keepdim=True), routed.std(-1, keepdim=True, correction=0)
        keep = routed > mean + self.beta * deviation
        if not self.corrects:
            # A row without any block would have nothing to attend to.
            keep |= routed == routed.amax(-1, keepdim=True)
            return Outcome(call.sparse(keep), keep, share_of(keep), ROUTER / 2)
        out = with_proxies(call, keep, proxies)
        return Outcome(out, keep, share_of(keep), ROUTER)


def with_proxies(call: Call, keep: torch.Tensor, proxies: torch.Tensor) -> torch.Tensor:
    """Attention over the kept blocks, and over one proxy for each other block, with these scores ``[B, H, S, nk]``."""
    others = (proxies + torch.tensor(float(BLOCK)).log()).masked_fill(over_tokens(keep), -torch.inf)
    weights = torch.cat([call.masked(keep), others], dim=-1).softmax(-1).to(call.v.dtype)
    values = torch.cat([call.v, block_mean(call.v.float()).to(call.v.dtype)], dim=2)
    return weights @ values
