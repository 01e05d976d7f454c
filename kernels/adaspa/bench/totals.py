"""What a whole denoising takes, from the seconds of its kinds of step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from adaspa.config import AdaSpaConfig
from adaspa.schedule import Schedule, StepKind


@dataclass(frozen=True)
class StepSeconds:
    """Seconds of one forward by what its self-attention does.

    Args:
        dense: a plain dense step.
        dense_with_lse: the dense step before the first search.
        first_search: a search without an LSE from the step before: dense output, two passes.
        fused_search: a search with one: dense output, one pass.
        cached_search: at density ``searched_at``, the scoring pass and the sparse attention behind it.
        sparse: by density, at two densities at least.
        sampled_search: as cached_search, with every fourth query row scored; None if it was not measured.
    """

    dense: float
    dense_with_lse: float
    first_search: float
    fused_search: float
    cached_search: float
    searched_at: float
    sparse: dict[float, float]
    sampled_search: float | None = None

    @classmethod
    def of(cls, rows: list[dict[str, Any]], attention: str) -> StepSeconds:
        """From a model's rows, the dense steps by ``attention``.

        Raises:
            KeyError: a kind of step was not measured.
        """
        measured = [row for row in rows if "seconds" in row]
        by_kind = {row["step"]: row for row in measured if row["step"] not in {"dense", "sparse"}}
        dense = {row["attention"]: row["seconds"] for row in measured if row["step"] == "dense"}
        return cls(
            dense[attention],
            by_kind["dense_with_lse"]["seconds"],
            by_kind["first_search"]["seconds"],
            by_kind["fused_search"]["seconds"],
            by_kind["cached_search"]["seconds"],
            by_kind["cached_search"]["density"],
            {
                row["density"]: row["seconds"]
                for row in measured
                if row["step"] == "sparse" and row["pattern"] == "scattered"
            },
            by_kind["sampled_search"]["seconds"] if "sampled_search" in by_kind else None,
        )

    def sparse_at(self, density: float) -> float:
        """Between the two nearest densities that were measured, or on the line through the outermost two."""
        points = sorted(self.sparse.items())
        (x, y), (x2, y2) = next((pair for pair in pairwise(points) if density <= pair[1][0]), points[-2:])
        return y + (density - x) * (y2 - y) / (x2 - x)


def step_kinds(config: AdaSpaConfig, steps: int) -> list[str]:
    """What each of ``steps`` denoising steps does, in the words of `StepSeconds`."""
    schedule = Schedule.of(config, steps)
    kinds = []
    for step in range(steps):
        kind = schedule.kind(step)
        if kind is StepKind.DENSE:
            kinds.append("dense_with_lse" if schedule.leaves_lse(step) else "dense")
        elif kind is StepKind.SPARSE:
            kinds.append("sparse")
        elif step == schedule.searches[0]:
            kinds.append("fused_search" if step else "first_search")
        else:
            kinds.append("sampled_search" if config.score_every > 1 else "cached_search")
    return kinds


def total_seconds(
    config: AdaSpaConfig, seconds: StepSeconds, density: float | Sequence[float], steps: int = 50
) -> float:
    """Seconds of a denoising of one guidance branch.

    Args:
        density: the kept share of blocks, one for all patterns or one for each search of the schedule.
    """
    searches = len(Schedule.of(config, steps).searches)
    densities = [density] * searches if isinstance(density, int | float) else list(density)
    if len(densities) != searches:
        raise ValueError(f"density must be one number, or one for each of {searches} searches, got {density!r}")
    total, found = 0.0, -1
    for kind in step_kinds(config, steps):
        found += kind.endswith("search")
        if kind == "sparse":
            total += seconds.sparse_at(densities[found])
        elif kind in {"cached_search", "sampled_search"}:
            search = getattr(seconds, kind)
            if search is None:
                raise ValueError(f"{kind} must have been measured for score_every={config.score_every}")
            total += search - seconds.sparse_at(seconds.searched_at) + seconds.sparse_at(densities[found])
        else:
            total += getattr(seconds, kind)
    return total
