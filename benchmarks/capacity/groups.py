"""Several GPUs on one video beside a worker for each of them: which of the two has a video done sooner."""

from typing import Any

from benchmarks.capacity.phases import ModelTimes
from benchmarks.capacity.sizing import MOST_BUSY, mean_wait

GPUS = (2, 4, 8)
BUSY = (0.1, 0.3, 0.5, 0.7, 0.9)
"""How busy so many workers with a GPU each would be."""
Json = dict[str, Any]


def beside(model: ModelTimes) -> list[Json]:
    """By GPUs and requests an hour, the mean seconds from a request to its video with each size of group."""
    sizes = (1, *(group.gpus for group in model.groups))
    rows = []
    for gpus in GPUS:
        for busy in BUSY:
            per_hour = busy * gpus * 3600 / model.job_seconds()
            rows += [
                {
                    "model": model.id,
                    "gpus": gpus,
                    "per_hour": round(per_hour, 2),
                    "group": size,
                    "basis": basis(model, size),
                    "job_seconds": round(model.job_seconds(gpus=size), 1),
                    "seconds": until_done(model, gpus, size, per_hour),
                }
                for size in sizes
                if gpus % size == 0
            ]
    return rows


def until_done(model: ModelTimes, gpus: int, size: int, per_hour: float) -> float | None:
    """Seconds of a request's wait and job together, on average; None where the groups would be too busy."""
    groups, job = gpus // size, model.job_seconds(gpus=size)
    load = per_hour * job / 3600
    if load > MOST_BUSY * groups:
        return None
    return round(mean_wait(groups, load, job) + job, 1)


def basis(model: ModelTimes, size: int) -> str:
    """Whether so many GPUs were measured, or are what a plan says of them."""
    return next((group.sparse.basis for group in model.groups if group.gpus == size), "measured")
