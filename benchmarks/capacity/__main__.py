"""``python -m benchmarks.capacity docs/scaling``: answer, from ``phases.json`` and ``redis.json`` in that folder.

Prints tables, writes ``results.json`` and ``scaling.png`` beside them, and the tables into the page ``README.md``.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from adaspa_jobs.settings import Settings
from rich.console import Console

from benchmarks.capacity import groups
from benchmarks.capacity.bottlenecks import RedisCost, demand, most_workers
from benchmarks.capacity.cluster import Fleet
from benchmarks.capacity.page import fill
from benchmarks.capacity.phases import ModelTimes, Times
from benchmarks.capacity.questions import cost, row
from benchmarks.capacity.report import plot, print_table
from benchmarks.capacity.sizing import workers_for

REQUESTS = (1, 5, 20, 100, 500, 2000)
"""An hour."""
TARGETS = (60, 300, 900)
"""What the p95 of the wait may be, in seconds."""
RATES = (0.2, 0.5, 1, 2, 5, 10, 20, 50)
"""Requests an hour, for the question of scaling."""
SCALED_JOBS = 2000
MOST_SCALED = 100
WORKERS = (10, 100, 1000, 3000, 10_000)
SAVING = {"result_ttl_seconds": 86400, "checkpoint_seconds": 300.0}
"""Settings of a large cluster: results are kept for a day, and a lost worker costs five minutes."""


def policies(times: Times, model: ModelTimes) -> dict[str, Fleet]:
    """Ways of scaling: down to none, with a short and a long cooldown; down to one, ending idle workers or any."""

    def fleet(minimum: int, cooldown: float, ending: Any) -> Fleet:
        start, load = times.pod_start.value, model.seconds.loading.value
        return Fleet(minimum, MOST_SCALED, start, load, cooldown_seconds=cooldown, ending=ending)

    return {
        "to 0, 5 min, idle": fleet(0, 300, "idle"),
        "to 0, 30 min, idle": fleet(0, 1800, "idle"),
        "to 1, 10 min, idle": fleet(1, 600, "idle"),
        "to 1, 10 min, any": fleet(1, 600, "any"),
    }


def sizing(times: Times) -> list[dict[str, Any]]:
    """How many GPUs for so many requests an hour, at a p95 wait."""
    return [
        {"model": model.id} | row(workers_for(per_hour, model.job_seconds(), target))
        for model in times.models
        for per_hour in REQUESTS
        for target in TARGETS
    ]


def scaling(times: Times) -> list[dict[str, Any]]:
    """What a number of workers that follows the jobs costs, for the first model."""
    model = times.models[0]
    return [
        {"policy": name} | row(cost(per_hour, model.job_seconds(), fleet, SCALED_JOBS))
        for name, fleet in policies(times, model).items()
        for per_hour in RATES
    ]


def sharing(times: Times, redis: RedisCost, settings: Settings) -> list[dict[str, Any]]:
    """What so many workers ask of Redis and of the storage, for the first model."""
    return [row(demand(workers, times.models[0], redis, settings)) for workers in WORKERS]


def main() -> None:
    """Answer everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.add_argument("folder", type=Path, help="where phases.json and redis.json are")
    folder = parser.parse_args().folder
    times, redis = Times.load(folder / "phases.json"), RedisCost.load(folder / "redis.json")
    usual, saving = Settings(), Settings.model_validate(Settings().model_dump() | SAVING)
    model, limits = times.models[0], times.limits
    results = {
        "scaled_model": model.id,
        "jobs": [
            {
                "model": model.id,
                "seconds": round(model.job_seconds(), 1),
                "dense_seconds": round(model.job_seconds(sparse=False), 1),
            }
            for model in times.models
        ],
        "groups": [row for each in times.models if each.groups for row in groups.beside(each)],
        "sizing": sizing(times),
        "scaling": scaling(times),
        "sharing": sharing(times, redis, usual),
        "limits": {name: getattr(limits, name).value for name in type(limits).model_fields},
        "most_workers": {
            "usual settings": most_workers(model, redis, usual, limits),
            ", ".join(f"{name}={value:g}" for name, value in SAVING.items()): most_workers(
                model, redis, saving, limits
            ),
        },
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    plot(results, folder / "scaling.png")
    (folder / "README.md").write_text(fill((folder / "README.md").read_text(), results))
    console = Console(width=200)
    for name in ("jobs", "sizing", "scaling", "sharing"):
        print_table(console, name, results[name])  # type: ignore[arg-type]
    for name, found in results["most_workers"].items():  # type: ignore[attr-defined]
        print_table(console, f"busy workers that each part bears, {name}", [found])


if __name__ == "__main__":
    main()
