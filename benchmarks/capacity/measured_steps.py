"""Take the seconds of denoising steps from the GPU benchmark's files (``python -m benchmarks.models.steps``).

python -m benchmarks.capacity.measured_steps docs/scaling/phases.json docs/kernels/models-*.json
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.capacity.phases import Times
from benchmarks.models import parallel_plan

KINDS = {"dense": ("dense_with_lse",), "search": ("fused_search", "cached_search"), "sparse": ("sparse",)}
"""Rows of the benchmark for each kind of step here, all with AdaSpa's own kernels; of two searches, one is of the first
kind and one of the second."""

TOGETHER = {"dense": ("dense",), "search": ("first search", "later search"), "sparse": ("sparse",)}
"""Rows of the benchmark of several GPUs."""


def steps(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """By model, the figures of those kinds of step that the file has."""
    benchmark = json.loads(path.read_text())
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for model in dict.fromkeys(row["model"] for row in benchmark["rows"]):
        rows = [row for row in benchmark["rows"] if row["model"] == model and "seconds" in row]
        for kind, names in KINDS.items():
            seconds = [_seconds(rows, name) for name in names]
            if None not in seconds:
                mean = sum(filter(None, seconds)) / len(seconds) * rows[0]["calls"]
                source = f"{path.name}: {_describe(rows, kind)}, {benchmark['device']}, torch {benchmark['torch']}"
                figure = {"value": float(f"{mean:.4g}"), "basis": "measured", "source": source}
                found.setdefault(model, {})[kind] = figure
    return found


def groups(path: Path) -> dict[str, list[dict[str, Any]]]:
    """By model, how much faster its steps are on several GPUs: by guidance branches where they were measured so.

    Two and more that were measured, and four where a plan says what to expect of them.
    """
    benchmark = json.loads(path.read_text())
    source = f"{path.name}: {benchmark['device']}, torch {benchmark['torch']}"
    found: dict[str, list[dict[str, Any]]] = {}
    for model in dict.fromkeys(row["model"] for row in benchmark["rows"]):
        plan = parallel_plan.Plan([row for row in benchmark["rows"] if row["model"] == model])
        for gpus in (2, 4):
            known = ((kind, _speed(plan, gpus, kinds)) for kind, kinds in TOGETHER.items())
            figures = {
                kind: {"value": float(f"{speed[0]:.4g}"), "basis": speed[1], "source": source}
                for kind, speed in known
                if speed is not None
            }
            if len(figures) == len(TOGETHER):
                found.setdefault(model, []).append({"gpus": gpus, **figures})
    return found


def _speed(plan: parallel_plan.Plan, gpus: int, kinds: Sequence[str]) -> tuple[float, str] | None:
    """Of steps of some kinds together; measured, or else computed."""
    one = [plan.measured("one", 1, kind) for kind in kinds]
    # As a worker does by default.
    mode = "ulysses" if plan.measured("guidance", 2, "sparse") is None else "guidance"
    measured = [plan.measured(mode, gpus, kind) for kind in kinds]
    if None in one:
        return None
    alone = sum(row["seconds"] for row in one if row)
    if None not in measured:
        return alone / sum(row["seconds"] for row in measured if row), "measured"
    planned = [plan.seconds(mode, gpus, kind) for kind in kinds]
    return None if None in planned else (alone / sum(filter(None, planned)), "computed")


def _seconds(rows: Sequence[dict[str, Any]], step: str) -> float | None:
    """Of one forward: the median of the model's own patterns."""
    own = [row["seconds"] for row in rows if row["step"] == step and row["pattern"] == "searched"]
    return median(own) if own else None


def _describe(rows: Sequence[dict[str, Any]], kind: str) -> str:
    calls = "" if rows[0]["calls"] == 1 else f", {rows[0]['calls']} forward passes a step"
    if kind == "dense":
        return f"our kernel{calls}"
    if kind == "sparse":
        return f"density {next(row['density'] for row in rows if row['step'] == kind):.2f}{calls}"
    return f"the mean of a fused and a cached search{calls}"


def take(times: dict[str, Any], files: Sequence[Path], parallel: Path | None = None) -> dict[str, Any]:
    """The content of ``phases.json`` with what was measured in place of what was there."""
    for path in files:
        for name, figures in steps(path).items():
            for model in times["models"]:
                if model["id"] == name:
                    model["seconds"] |= figures
    for name, found in groups(parallel).items() if parallel else ():
        for model in times["models"]:
            if model["id"] == name:
                model["groups"] = found
    return times


def text(times: dict[str, Any]) -> str:
    """As JSON with a figure on a line."""
    figure = r'\{\s+"value": ([^,]+),\s+"basis": ("[^"]*"),\s+"source": ("(?:[^"\\]|\\.)*")\s+\}'
    written = re.sub(figure, r'{"value": \1, "basis": \2, "source": \3}', json.dumps(times, indent=2))
    return f"{written}\n"


def main() -> None:
    """Rewrite the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity.measured_steps", description=__doc__)
    parser.add_argument("phases", type=Path, help="the file to write the steps into")
    parser.add_argument("benchmarks", type=Path, nargs="+", help="files of the benchmark")
    parser.add_argument("--parallel", type=Path, help="the file of `benchmarks.models.parallel`")
    asked = parser.parse_args()
    asked.phases.write_text(text(take(json.loads(asked.phases.read_text()), asked.benchmarks, asked.parallel)))
    Times.load(asked.phases)


if __name__ == "__main__":
    main()
