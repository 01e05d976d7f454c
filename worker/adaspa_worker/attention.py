"""Attention of a job: the operator's settings, changed as far as the client asked for it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from adaspa import AdaSpaConfig
from adaspa.selection import RetainedMass, TopK
from adaspa_jobs.job import JobParams

DECIDED = ("selection", "steps", "warmup", "searches", "dense_tail", "warmup_mass", "share_lists", "compensation")
"""Settings that a preset decides; all others (block size, memory, token order, ...) stay the operator's."""


def operator_config(operator: Mapping[str, Any]) -> AdaSpaConfig:
    """Read a catalog's ``attention``: fields of ``AdaSpaConfig``, and as ``preset`` the one that they change.

    Where it says nothing it is the preset ``balanced``.

    Raises:
        ValueError, TypeError: the settings are none.
    """
    fields = dict(operator)
    preset = fields.pop("preset", None if fields else "balanced")
    return AdaSpaConfig(**fields) if preset is None else AdaSpaConfig.preset(preset, **fields)


def attention_config(operator: Mapping[str, Any], params: JobParams) -> AdaSpaConfig:
    """Return the configuration of one job.

    Args:
        operator: the catalog's ``attention``.
        params: of the job; a preset or settings within the catalog's limits.

    Raises:
        ValueError, TypeError: the operator's settings are none.
    """
    config = operator_config(operator)
    if params.quality is not None:
        preset = AdaSpaConfig.preset(params.quality.value)
        config = replace(config, **{name: getattr(preset, name) for name in DECIDED})
    if params.sparsity is not None:
        policy = config.selection if isinstance(config.selection, TopK) else TopK()
        config = replace(config, selection=replace(policy, sparsity=params.sparsity))
    if params.retained_mass is not None:
        config = replace(config, selection=RetainedMass(params.retained_mass))
    if params.warmup is not None:
        config = with_warmup(config, params.warmup, params.steps)
    return config


def with_warmup(config: AdaSpaConfig, warmup: int, steps: int) -> AdaSpaConfig:
    """Return the configuration with this number of dense steps at the start of a request of ``steps``.

    Its searches stay where they are in the trajectory; those that the warm-up swallows become one at its end. The dense
    tail stays too, as far as the warm-up leaves room for it and a search.
    """
    tail = min(config.tail(steps), steps - warmup - 1)
    last = steps - tail - 1
    scaled = {max(warmup, min(round(search * steps / config.steps), last)) for search in config.searches[1:]}
    searches = tuple(sorted({warmup, *scaled}))
    config = replace(config, steps=steps, warmup=warmup, searches=searches, dense_tail=tail)
    return replace(config, warmup_mass=None, few_steps=0)
