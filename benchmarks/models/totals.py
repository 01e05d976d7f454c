"""What a whole denoising takes, from the seconds of its kinds of step."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from adaspa.config import AdaSpaConfig
from adaspa.schedule import StepKind

SHORT_WARMUP = AdaSpaConfig(warmup=3, searches=(3, 10, 25), query_stride=4)
"""A schedule with three dense steps of 50, for totals at a density that was set."""
SAME = 0.01  # densities that differ by less are the same: the text adds a little to what was asked


@dataclass(frozen=True)
class StepSeconds:
    """Seconds of one forward by what its self-attention does.

    Args:
        dense: a dense step by our kernel, which leaves its LSE or does not.
        fused_search: a search with an LSE from the step before: dense output, one pass; None where the first search is
            a dense pass and a scoring instead, as in eight bits.
        cached_search: at density ``searched_at``, the scoring pass and the sparse attention behind it.
        sparse: by density.
        sampled_search: as cached_search, with every fourth query row scored; None if not measured.
    """

    dense: float
    fused_search: float | None
    cached_search: float
    searched_at: float
    sparse: dict[float, float]
    sampled_search: float | None = None

    @classmethod
    def of(cls, rows: list[dict[str, Any]]) -> "StepSeconds":
        """From a model's rows.

        Raises:
            KeyError: a kind of step was not measured.
        """
        measured = [row for row in rows if "seconds" in row]
        by_kind = {row["step"]: row["seconds"] for row in measured if row["step"] not in {"dense", "sparse"}}
        sparse = [row for row in measured if row["step"] == "sparse" and row["pattern"] != "skewed"]
        return cls(
            by_kind["dense_with_lse"],
            None if "two_pass_search" in by_kind else by_kind["fused_search"],
            by_kind["cached_search"],
            next(row["density"] for row in measured if row["step"] == "cached_search"),
            # The random patterns come last and stand for the searched ones of their density.
            {round(row["density"], 2): row["seconds"] for row in sparse},
            by_kind.get("sampled_search"),
        )

    def scoring(self, query_stride: int) -> float:
        """The scoring pass of a search, by the LSE of an earlier step or of its own dense pass.

        Raises:
            ValueError: a search that scores only some rows was not measured.
        """
        search = self.cached_search if query_stride == 1 else self.sampled_search
        if search is None:
            raise ValueError(f"sampled_search must have been measured for query_stride={query_stride}")
        return search - self.sparse_at(self.searched_at)

    def sparse_at(self, density: float) -> float:
        """Between the two nearest densities that were measured, or on the line through the outermost two.

        Raises:
            ValueError: only one density was measured, and it is another one.
        """
        points = sorted(self.sparse.items())
        if len(points) == 1:
            if abs(density - points[0][0]) > SAME:
                raise ValueError(f"density must be {points[0][0]}, the only one measured, got {density}")
            return points[0][1]
        (x, y), (x2, y2) = next((pair for pair in pairwise(points) if density <= pair[1][0]), points[-2:])
        return y + (density - x) * (y2 - y) / (x2 - x)


def step_kinds(config: AdaSpaConfig, steps: int) -> list[str]:
    """What each of ``steps`` denoising steps does, in the words of `StepSeconds`."""
    schedule = config.resolve(steps).schedule
    kinds = []
    for step in range(steps):
        kind = schedule.kind(step)
        if kind is StepKind.DENSE:
            kinds.append("dense")
        elif kind is StepKind.SPARSE:
            kinds.append("sparse")
        elif step == schedule.searches[0]:
            kinds.append("fused_search" if step else "first_search")
        else:
            kinds.append("cached_search")
    return kinds


def total_seconds(
    config: AdaSpaConfig, seconds: StepSeconds, density: float | Sequence[float], steps: int = 50
) -> float:
    """Seconds of a denoising of one guidance branch.

    Args:
        density: the kept share of blocks, one for all patterns or one for each search of the schedule.
    """
    searches = len(config.resolve(steps).schedule.searches)
    densities = [density] * searches if isinstance(density, int | float) else list(density)
    if len(densities) != searches:
        raise ValueError(f"density must be one number, or one for each of {searches} searches, got {density!r}")
    total, found = 0.0, -1
    for kind in step_kinds(config, steps):
        found += kind.endswith("search")
        if kind == "sparse":
            total += seconds.sparse_at(densities[found])
        elif kind == "first_search" or (kind == "fused_search" and seconds.fused_search is None):
            total += seconds.dense + seconds.scoring(config.query_stride)
        elif kind == "cached_search":
            total += seconds.scoring(config.query_stride) + seconds.sparse_at(densities[found])
        else:
            total += getattr(seconds, kind)
    return total
