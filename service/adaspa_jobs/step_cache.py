"""Step caches: what of a denoising step a worker takes from the step before instead of computing it."""

from typing import Literal, Self

from adaspa_api.words import Quality
from pydantic import BaseModel, ConfigDict, Field, model_validator

OWN = {
    "first_block": {"threshold"},
    "mag": {"threshold", "ratios", "first_share", "in_a_row"},
    "sea": {"threshold", "first_share", "in_a_row"},
    "taylor_seer": {"interval", "first_share"},
}
"""The settings of each kind."""
NEEDED = {
    "first_block": {"threshold"},
    "mag": {"threshold", "ratios"},
    "sea": {"threshold"},
    "taylor_seer": {"interval"},
}
"""Those that have no value that suits every model."""


class StepCache(BaseModel):
    """A step cache of diffusers, as a model's jobs run with it beside AdaSpa."""

    # The descriptions make the table of docs/models.md: make field-tables.
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["first_block", "mag", "sea", "taylor_seer"]
    """``first_block``: FirstBlockCache; ``mag``: MagCache; ``sea``: SeaCache; ``taylor_seer``: TaylorSeer."""
    presets: list[Quality] | None = Field(default=None, min_length=1)
    """The presets whose jobs run with it; ``null``: every job but those of ``exact``."""
    threshold: float | None = Field(default=None, gt=0)
    """Of ``first_block``, ``mag`` and ``sea``: how much may have changed, or be lost, before a step is computed; more
    is faster."""
    interval: int | None = Field(default=None, ge=2)
    """Of ``taylor_seer``: every so many steps one is computed, those between are extrapolated."""
    ratios: list[float] | None = Field(default=None, min_length=2)
    """Of ``mag``: the model's magnitude ratios, a number a step, as ``MagCacheConfig(calibrate=True)`` prints them."""
    first_share: float | None = Field(default=None, ge=0, lt=1)
    """Share of the steps at the start that are all computed: 0.2 if unset. Not of ``first_block``, which goes by its
    first block alone."""
    in_a_row: int | None = Field(default=None, ge=1)
    """Of ``mag`` and ``sea``: the most steps that are left out one after the other: 3 if unset."""

    @model_validator(mode="after")
    def _has_its_own(self) -> Self:
        own, given = OWN[self.kind], self.model_dump(exclude_none=True).keys() - {"kind", "presets"}
        if more := given - own:
            raise ValueError(f"{self.kind} has no {', '.join(sorted(more))}; allowed: {', '.join(sorted(own))}")
        if missing := NEEDED[self.kind] - given:
            raise ValueError(f"{self.kind} needs {', '.join(sorted(missing))}")
        if Quality.exact in (self.presets or ()):
            raise ValueError("presets: exact computes all of every step; allowed: the other presets")
        return self

    def serves(self, quality: Quality | None) -> bool:
        """Whether a job of this preset, or of none, runs with it."""
        return quality is not Quality.exact if self.presets is None else quality in self.presets
