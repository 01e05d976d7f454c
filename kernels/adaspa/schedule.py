"""Schedule of dense, searching and sparse denoising steps."""

from dataclasses import dataclass
from enum import StrEnum


class StepKind(StrEnum):
    """Kind of self-attention in a denoising step."""

    DENSE = "dense"
    SEARCH = "search"
    SPARSE = "sparse"


@dataclass(frozen=True)
class Schedule:
    """Schedule of one request, in its own denoising steps (section 4.2).

    ``searches`` empty means dense throughout. Steps before ``warmup`` are dense, or partly sparse where the first step
    searches. Steps from ``dense_from`` on are dense again; None where there is no such tail.
    """

    searches: tuple[int, ...] = ()
    warmup: int = 0
    dense_from: int | None = None

    def kind(self, step: int) -> StepKind:
        """Return the kind of denoising step ``step`` (0 is the first)."""
        if not self.searches or step < self.searches[0] or (self.dense_from is not None and step >= self.dense_from):
            return StepKind.DENSE
        return StepKind.SEARCH if step in self.searches else StepKind.SPARSE

    def last_search(self, step: int) -> int:
        """Return the last search up to ``step``; -1 before the first."""
        return max((search for search in self.searches if search <= step), default=-1)

    def leaves_lse(self, step: int) -> bool:
        """True for the dense step just before the first search: with its LSE the search needs no second QK pass."""
        return bool(self.searches) and step == self.searches[0] - 1

    def searches_next(self, step: int) -> bool:
        """True if the step behind searches by the LSE that is cached."""
        return step + 1 in self.searches[1:]

    def searches_after(self, step: int) -> bool:
        """True if a later step will search, so that the LSE must stay cached."""
        return bool(self.searches) and self.searches[-1] > step
