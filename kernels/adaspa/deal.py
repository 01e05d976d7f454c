"""Deal of a layer's heads to ranks: by their cost, so that no rank waits for another (*ours*)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

EXHAUSTIVE = 4096
"""Deals that are all tried; where there are more, heads are dealt greedily and then exchanged."""


@dataclass(frozen=True)
class Deal:
    """A deal of a layer's heads to ranks.

    Args:
        hands: the heads of each rank, in ascending order, at least one each.
    """

    hands: tuple[tuple[int, ...], ...]

    @classmethod
    def even(cls, heads: int, ranks: int) -> "Deal":
        """Deal the heads evenly, in order; if they do not divide, the first ranks get one more."""
        each, more = divmod(heads, ranks)
        stops = [each * rank + min(rank, more) for rank in range(ranks + 1)]
        return cls(tuple(tuple(range(stops[rank], stops[rank + 1])) for rank in range(ranks)))

    @classmethod
    def by_cost(cls, costs: Sequence[float], ranks: int) -> "Deal":
        """Find the deal whose dearest hand is cheapest, or nearly so if there are too many to try.

        The same costs give the same deal in every process.

        Args:
            costs: of each head, above 0.
            ranks: at most as many as heads.
        """
        best = _exhaustive(costs, ranks) if ranks ** len(costs) <= EXHAUSTIVE else _greedy(costs, ranks)
        return cls(tuple(tuple(sorted(hand)) for hand in best))

    @property
    def order(self) -> list[int]:
        """Heads hand by hand."""
        return [head for hand in self.hands for head in hand]

    def imbalance(self, costs: Sequence[float]) -> float:
        """Return the cost of the dearest hand, in means over all hands: 1.0 if no rank waits."""
        return max(_cost(costs, hand) for hand in self.hands) * len(self.hands) / sum(costs)


def _cost(costs: Sequence[float], hand: Sequence[int]) -> float:
    return sum(costs[head] for head in hand)


def _exhaustive(costs: Sequence[float], ranks: int) -> list[list[int]]:
    def hands(owners: tuple[int, ...]) -> list[list[int]]:
        return [[head for head, owner in enumerate(owners) if owner == rank] for rank in range(ranks)]

    def worth(owners: tuple[int, ...]) -> tuple[float, int, tuple[int, ...]]:
        dealt = hands(owners)
        return max(_cost(costs, hand) for hand in dealt), max(len(hand) for hand in dealt), owners

    complete = (owners for owners in product(range(ranks), repeat=len(costs)) if len(set(owners)) == ranks)
    return hands(min(complete, key=worth))


def _greedy(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """Deal the dearest heads first, each to the cheapest hand; then heads move or change places while that helps."""
    hands: list[list[int]] = [[] for _ in range(ranks)]
    for head in sorted(range(len(costs)), key=lambda head: (-costs[head], head)):
        min(hands, key=lambda hand: (_cost(costs, hand), len(hand))).append(head)
    while _improve(costs, hands):
        pass
    return hands


def _improve(costs: Sequence[float], hands: list[list[int]]) -> bool:
    """Make the dearest hand cheaper by what helps most: a head given to another hand, for one of its heads or none."""
    dearest = max(hands, key=lambda hand: _cost(costs, hand))
    most = _cost(costs, dearest)
    best, change = most * (1 - 1e-9), None
    for other in hands:
        if other is dearest:
            continue
        theirs = _cost(costs, other)
        for given in dearest:
            for taken in (None, *other):
                moved = costs[given] - (0 if taken is None else costs[taken])
                after = max(most - moved, theirs + moved)
                if after < best and (taken is not None or len(dearest) > 1):
                    best, change = after, (other, given, taken)
    if change is None:
        return False
    other, given, taken = change
    dearest.remove(given)
    other.append(given)
    if taken is not None:
        other.remove(taken)
        dearest.append(taken)
    return True
