"""Which denoising step is dense, searches, or runs sparse."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from adaspa.config import AdaSpaConfig


class StepKind(StrEnum):
    """What self-attention does in a denoising step."""

    DENSE = "dense"
    SEARCH = "search"
    SPARSE = "sparse"


@dataclass(frozen=True)
class Schedule:
    """The schedule of one request, in its own denoising steps (section 4.2).

    ``searches`` empty means dense throughout. Steps before ``warmup`` are dense, or partly sparse where the first step
    searches.
    """

    searches: tuple[int, ...]
    warmup: int = 0

    @classmethod
    def of(cls, config: AdaSpaConfig, steps: int | None = None) -> Schedule:
        """The schedule of a request of ``steps`` denoising steps, or of unknown length.

        The configured steps are scaled by ``steps / config.steps`` and rounded; a configured warm-up keeps at least one
        dense step, and searches that fall on the same step become one.
        """
        if config.is_dense:
            return cls(())
        searches = config.searches
        if steps is not None and steps != config.steps:
            first_allowed = min(1, config.warmup)
            scaled = {max(first_allowed, int(step * steps / config.steps + 0.5)) for step in searches}
            searches = tuple(sorted(scaled))
        warmup = searches[0]
        if config.warmup_mass is not None and warmup:
            searches = (0, *searches)
        return cls(searches, warmup)

    def kind(self, step: int) -> StepKind:
        """The kind of denoising step ``step`` (0 is the first)."""
        if not self.searches or step < self.searches[0]:
            return StepKind.DENSE
        return StepKind.SEARCH if step in self.searches else StepKind.SPARSE

    def leaves_lse(self, step: int) -> bool:
        """True for the dense step just before the first search: with its LSE the search needs no second QK pass."""
        return bool(self.searches) and step == self.searches[0] - 1

    def searches_after(self, step: int) -> bool:
        """True if a later step will search, so that the LSE must stay cached."""
        return bool(self.searches) and self.searches[-1] > step
