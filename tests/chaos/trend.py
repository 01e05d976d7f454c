"""Whether a figure grows: its slope over the second half of a soak, with the interval that it is in.

The second half is cut into BLOCKS of equal length, whose means are as good as independent of each other. Through them
goes a straight line, by least squares; for what Redis and storage hold, beside time, with the number of jobs that are
kept. The interval is Student's, at 95 %. Growth is told in percent of the mean, an hour.

A process takes memory while it warms up: its allocator keeps what its busiest moments took. So a leak is looked for in
those that run the whole time, of which there is one of each kind, and which are warm in the second half. One that is
started again and again is compared with itself in its earlier lives, at the same age and over the whole soak: what
grows there is what it takes for what is stored.

A figure is *flat* if the whole interval is below ALLOWED (open files: below FILES_A_JOB). It *grows* if it is not flat
and the whole interval is above 0. It is *open* otherwise: then the run was too short.
"""

from collections.abc import Callable
from itertools import pairwise
from statistics import NormalDist, fmean
from typing import Any

import numpy as np

from chaos.samples import Sample

BLOCKS = 12
ALLOWED = 5.0
FILES_A_JOB = 0.01
"""Open files may grow by this: a pool keeps its connections, as many as were ever used at one time."""
AGE_SECONDS = 90.0
"""Ages of a process that differ by less are the same."""
WARM_SECONDS = 90.0
"""A process's memory is looked at from then on."""

Point = tuple[float, float, int, float]
"""Time, value, age of the process if it is compared by that, jobs that are kept."""


def trends(samples: list[Sample]) -> dict[str, dict[str, Any]]:
    """The trend of each figure, by its name."""
    half = samples[len(samples) // 2 :]
    jobs_an_hour = 3600 * (half[-1].ended - half[0].ended) / (half[-1].at - half[0].at)
    found = {}
    for name in half[0].parts:
        restarted = samples[0].parts[name][0] != samples[-1].parts[name][0]
        for figure, place in (("resident memory", 2), ("open files", 3)):
            points = [
                (
                    each.at,
                    float(each.parts[name][place]),
                    int(each.parts[name][1] // AGE_SECONDS) if restarted else 0,
                    0.0,
                )
                for each in (samples if restarted else half)
                if each.parts[name][1] > WARM_SECONDS
            ]
            mean = fmean(point[1] for point in points) if points else 1.0
            allowed = ALLOWED if place == 2 else 100 * FILES_A_JOB * jobs_an_hour / mean
            found[f"{figure} of {name}"] = told = trend(points, of_jobs=False, allowed=allowed)
            if place == 2 and "percent_an_hour" in told and not restarted:
                told["bytes_a_job"] = round(told["mean"] * told["percent_an_hour"] / 100 / jobs_an_hour)
    kept: dict[str, Callable[[Sample], float]] = {
        "Redis keys": lambda each: each.keys,
        "members of Redis' keys that are no job's own": lambda each: each.members,
        "Redis bytes": lambda each: each.redis_bytes,
        "objects in storage": lambda each: each.objects,
        "bytes in storage": lambda each: each.object_bytes,
    }
    for name, value in kept.items():
        found[name] = trend([(each.at, value(each), 0, float(each.stored)) for each in half], of_jobs=True)
    found["log bytes a job"] = trend(_log_bytes_a_job(half), of_jobs=False)
    return found


def trend(points: list[Point], *, of_jobs: bool, allowed: float = ALLOWED) -> dict[str, Any]:
    """The trend of one figure.

    Args:
        points: of the second half.
        of_jobs: whether it depends on how many jobs are kept.
        allowed: growth that is still flat, in percent an hour.
    """
    if not points:
        return {"verdict": "open"}
    blocks = np.array([np.mean(block, axis=0) for block in _blocks(points)])
    times, values, ages, stored = blocks.T
    columns = [(ages == age).astype(float) for age in sorted(set(ages))]
    if of_jobs and np.ptp(stored) > 0:
        columns.append(stored - stored.mean())
    columns.append((times - times.mean()) / 3600)
    matrix = np.stack(columns, axis=1)
    fit, *_ = np.linalg.lstsq(matrix, values, rcond=None)
    free = len(values) - np.linalg.matrix_rank(matrix)
    mean = float(values.mean())
    if free < 1 or not mean:
        return {"mean": mean, "verdict": "open" if free < 1 else "flat"}
    spread = float(np.sum((values - matrix @ fit) ** 2)) / free
    error = float(np.sqrt(spread * np.linalg.pinv(matrix.T @ matrix)[-1, -1])) * student(free)
    low, slope, high = (100 * each / mean for each in (fit[-1] - error, fit[-1], fit[-1] + error))
    verdict = "flat" if high < allowed else "grows" if low > 0 else "open"
    rounded = {"percent_an_hour": round(slope, 2), "interval": [round(low, 2), round(high, 2)]}
    return {"mean": round(mean, 1), **rounded, "blocks": len(values), "verdict": verdict}


def student(free: int) -> float:
    """The 97.5 % point of Student's distribution, to 1 % from 4 degrees of freedom on (Cornish and Fisher)."""
    z = NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)


def _blocks(points: list[Point]) -> list[np.ndarray]:
    """The points of each block and age, in rows."""
    first, last = points[0][0], points[-1][0]
    length = (last - first) / BLOCKS or 1.0
    grouped: dict[tuple[int, int], list[Point]] = {}
    for point in points:
        grouped.setdefault((min(BLOCKS - 1, int((point[0] - first) / length)), point[2]), []).append(point)
    return [np.array(block) for block in grouped.values()]


def _log_bytes_a_job(samples: list[Sample]) -> list[Point]:
    step = max(1, len(samples) // BLOCKS)
    marks = samples[::step]
    return [
        ((a.at + b.at) / 2, (b.log_bytes - a.log_bytes) / (b.ended - a.ended), 0, 0.0)
        for a, b in pairwise(marks)
        if b.ended > a.ended
    ]
