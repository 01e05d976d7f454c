"""Step caches, which reuse parts of earlier denoising steps."""

from typing import Literal, Self

from adaspa_api.words import Quality
from pydantic import BaseModel, ConfigDict, Field, model_validator

OWN = {
    "first_block": {"threshold"},
    "mag": {"threshold", "ratios", "first_share", "in_a_row"},
    "sea": {"threshold", "first_share", "in_a_row"},
    "taylor_seer": {"interval", "first_share"},
}
"""Settings of each kind."""
NEEDED = {
    "first_block": {"threshold"},
    "mag": {"threshold", "ratios"},
    "sea": {"threshold"},
    "taylor_seer": {"interval"},
}
"""Required settings of each kind, because no default suits every model."""


class StepCache(BaseModel):
    """A step cache of diffusers that runs beside AdaSpa."""

    # The descriptions make the table of docs/models.md: make field-tables.
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["first_block", "mag", "sea", "taylor_seer"]
    """``first_block``: FirstBlockCache; ``mag``: MagCache; ``sea``: SeaCache; ``taylor_seer``: TaylorSeer."""
    presets: list[Quality] | None = Field(default=None, min_length=1)
    """Presets whose jobs use the cache. ``null``: all jobs except those of ``exact``."""
    threshold: float | None = Field(default=None, gt=0)
    """Allowed change or error before a step is computed, for ``first_block``, ``mag`` and ``sea``. Higher is faster."""
    interval: int | None = Field(default=None, ge=2)
    """Interval of the computed steps, for ``taylor_seer``: the steps between are extrapolated."""
    ratios: list[float] | None = Field(default=None, min_length=2)
    """Magnitude ratios of the model, for ``mag``: one per step, as ``MagCacheConfig(calibrate=True)`` prints them."""
    first_share: float | None = Field(default=None, ge=0, lt=1)
    """Share of the steps at the start that are always computed; default 0.2. Not for ``first_block``."""
    in_a_row: int | None = Field(default=None, ge=1)
    """Maximum number of consecutive steps to skip, for ``mag`` and ``sea``; default 3."""

    @model_validator(mode="after")
    def _has_its_own(self) -> Self:
        own, given = OWN[self.kind], self.model_dump(exclude_none=True).keys() - {"kind", "presets"}
        if more := given - own:
            raise ValueError(f"{self.kind} does not take {', '.join(sorted(more))}; allowed: {', '.join(sorted(own))}")
        if missing := NEEDED[self.kind] - given:
            raise ValueError(f"{self.kind} needs {', '.join(sorted(missing))}")
        if Quality.exact in (self.presets or ()):
            raise ValueError("presets: exact always computes every step; allowed: the other presets")
        return self

    def serves(self, quality: Quality | None) -> bool:
        """Return whether jobs of this preset (None: no preset) use the cache."""
        return quality is not Quality.exact if self.presets is None else quality in self.presets
