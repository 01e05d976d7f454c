"""Settings of a server's user: `AdaSpaConfig` by its own names, or the few fields that a server has for sparsity."""

import json
import os
from dataclasses import dataclass
from typing import Any, get_args

from adaspa.config import AdaSpaConfig, Preset
from adaspa.plan import Plan

VARIABLE = "ADASPA_CONFIG"
"""Environment variable with a JSON object of `AdaSpaConfig`'s fields; ``preset`` names one of ours to begin with."""


@dataclass(frozen=True)
class ServerSettings:
    """Settings in the server's own words for a sparse backend, in steps of whatever request comes.

    Args:
        sparsity: share of the blocks that a query block drops.
        first_steps: dense steps at the start; 0 takes the paper's fifth of the request.
        last_steps: dense steps at the end.
        dense_layers: indices of the layers that stay dense.
    """

    sparsity: float
    first_steps: int = 0
    last_steps: int = 0
    dense_layers: tuple[int, ...] = ()

    def resolve(self, steps: int | None) -> Plan:
        """Make the plan of a request of ``steps``: the second search comes half-way from the first to the end."""
        config = AdaSpaConfig(sparsity=self.sparsity, dense_layers=self.dense_layers, skip_short=True)
        if steps is None and not (self.first_steps or self.last_steps):
            return config.resolve(None)
        length = config.steps if steps is None else steps
        first = self.first_steps or length // 5
        if first + self.last_steps >= length:
            return AdaSpaConfig(sparsity=0).resolve(steps)
        last = length - self.last_steps
        searches = tuple(sorted({first, (first + last) // 2}))
        scaled = config.replace(steps=length, warmup=first, searches=searches, dense_tail=self.last_steps)
        return scaled.resolve(steps)


Settings = AdaSpaConfig | ServerSettings


def from_environment() -> AdaSpaConfig | None:
    """Read the settings of `VARIABLE`, or None if it is not set. Raises ValueError: it names the field."""
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{VARIABLE} must be a JSON object: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"{VARIABLE} must be a JSON object, got {type(given).__name__}")
    return from_fields(given, VARIABLE)


def from_fields(given: dict[str, Any], place: str) -> AdaSpaConfig:
    """Read the settings from some of `AdaSpaConfig`'s fields and ``preset``.

    Args:
        given: the fields.
        place: where they stand, for the error.

    Raises:
        ValueError: naming the place and the field.
    """
    fields = dict(given)
    preset, presets = fields.pop("preset", None), get_args(Preset)
    if preset is not None and preset not in presets:
        raise ValueError(f"{place}: preset must be one of {presets}, got {preset!r}")
    try:
        return AdaSpaConfig(**fields) if preset is None else AdaSpaConfig.preset(preset, **fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from error
