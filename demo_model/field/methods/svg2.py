"""Sparse VideoGen 2 (arXiv 2505.18875): k-means clusters of tokens, and top-p of their centroids."""

import torch
from torch import Tensor

from demo_model.field.call import Call, Method, Outcome

FIRST, LATER = 20, 2
"""Iterations of k-means in the first sparse step, and in those that begin with the centroids of the step before."""
LEAST = 0.1  # of a row's clusters of keys, kept whatever they weigh


class Svg2(Method):
    """Clusters alike queries and alike keys; one of queries keeps the fewest clusters of keys that hold ``p``.

    The mass of a pair is estimated by the exponential of the centroids' product times the number of keys.

    Args:
        p: share of the estimated mass to keep.
        queries, keys: number of clusters.
    """

    def __init__(self, p: float, queries: int, keys: int) -> None:
        self.p, self.counts = p, (queries, keys)
        self.centroids: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def attend(self, call: Call) -> Outcome:
        site, (b, h, s, d) = call.place.site, call.q.shape
        old = self.centroids.get(site)
        iterations = LATER if old else FIRST
        (q_means, q_of), (k_means, k_of) = (
            k_means_of(x.float().flatten(0, 1), count, old[i] if old else None, iterations)
            for i, (x, count) in enumerate(zip((call.q, call.k), self.counts, strict=True))
        )
        self.centroids[site] = q_means, k_means
        sizes = torch.zeros(b * h, self.counts[1], device=call.q.device)
        sizes.scatter_add_(1, k_of, torch.ones_like(k_of, dtype=sizes.dtype))
        scores = (q_means @ k_means.mT) * d**-0.5 + sizes.log().unsqueeze(1)
        clusters = top_p(scores.softmax(-1), self.p)
        of_query = clusters.gather(1, q_of.unsqueeze(-1).expand(-1, -1, self.counts[1]))
        keep = of_query.gather(2, k_of.unsqueeze(1).expand(-1, s, -1)).view(b, h, s, s)
        router = iterations * sum(self.counts) / (2 * s)
        return Outcome(call.sparse(keep), keep, keep.float().mean((1, 2, 3)), router)


def top_p(mass: Tensor, p: float) -> Tensor:
    """The fewest entries of each row that hold ``p``, and at least a tenth of them."""
    heaviest, order = mass.sort(-1, descending=True)
    kept = heaviest.cumsum(-1) - heaviest < p
    kept[..., : max(1, round(LEAST * mass.shape[-1]))] = True
    return torch.zeros_like(kept).scatter(-1, order, kept)


def k_means_of(x: Tensor, count: int, centroids: Tensor | None, iterations: int) -> tuple[Tensor, Tensor]:
    """Centroids ``[N, count, D]`` and the cluster of each token ``[N, S]``, by Lloyd's iterations.

    They begin with the given centroids or else with tokens at even distances. A cluster that loses all tokens stays.
    """
    if centroids is None:
        centroids = x[:, torch.linspace(0, x.shape[1] - 1, count, device=x.device).round().long()]
    for _ in range(iterations):
        nearest = (x @ centroids.mT - centroids.square().sum(-1).unsqueeze(1) / 2).argmax(-1)
        one_hot = torch.zeros(*nearest.shape, count, device=x.device).scatter_(-1, nearest.unsqueeze(-1), 1.0)
        size = one_hot.sum(1).unsqueeze(-1)
        centroids = torch.where(size > 0, (one_hot.mT @ x) / size.clamp(min=1), centroids)
    return centroids, nearest
