"""What an operator asks, answered by simulation: how many GPUs, and what it costs to have none while nobody asks."""

import math
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from benchmarks.capacity.cluster import Fleet, Outcome, poisson, simulate

JOBS = 20_000
SEEDS = (1, 2, 3)
MOST_BUSY = 0.95
"""No fleet is planned to be busier: beyond it, a queue that has once grown is there for hours."""
HEADROOM = 200
"""Workers above the bare load that are tried at most; for random arrivals far more than any wait asks for."""


@dataclass(frozen=True)
class Sizing:
    """The least workers that keep a promise, and how busy they are."""

    per_hour: float
    target_seconds: float
    """What the p95 of the wait may be."""
    workers: int
    p95_seconds: float
    utilisation: float


@cache
def p95_wait(per_hour: float, job_seconds: float, workers: int, jobs: int = JOBS) -> float:
    """The p95 of the wait with a fixed number of workers; the median over three seeds."""
    found = [simulate(poisson(per_hour, job_seconds, seed), Fleet(workers, workers), jobs) for seed in SEEDS]
    return sorted(outcome.wait(0.95) for outcome in found)[len(SEEDS) // 2]


def workers_for(per_hour: float, job_seconds: float, target_seconds: float, jobs: int = JOBS) -> Sizing:
    """The least workers with which 95 % of the jobs wait no longer than the target."""
    load = per_hour * job_seconds / 3600
    low = math.ceil(load / MOST_BUSY) - 1
    high = low + HEADROOM
    tried: dict[int, float] = {}
    while high - low > 1:
        middle = min((low + high) // 2, low + max(1, math.ceil(math.sqrt(load))))
        tried[middle] = p95_wait(per_hour, job_seconds, middle, jobs)
        low, high = (low, middle) if tried[middle] <= target_seconds else (middle, high)
    return Sizing(per_hour, target_seconds, high, tried[high], load / high)


@dataclass(frozen=True)
class Cost:
    """What a way of scaling costs, and what its users feel."""

    per_hour: float
    gpu_hours_a_job: float
    gpu_hours_a_day: float
    busy_share: float
    """Of the GPU time, the part in which a job ran."""
    cold_share: float
    """Of the jobs, those that waited for a worker to start."""
    mean_wait_seconds: float
    p95_wait_seconds: float
    given_back: int


def cost(per_hour: float, job_seconds: float, fleet: Fleet, jobs: int) -> Cost:
    """Run a fleet that scales."""
    outcome: Outcome = simulate(poisson(per_hour, job_seconds, SEEDS[0]), fleet, jobs)
    return Cost(
        per_hour=per_hour,
        gpu_hours_a_job=outcome.gpu_seconds / 3600 / len(outcome.waits),
        gpu_hours_a_day=24 * outcome.gpu_seconds / outcome.span_seconds,
        busy_share=outcome.busy_seconds / outcome.gpu_seconds,
        cold_share=sum(wait >= fleet.start_seconds for wait in outcome.waits) / len(outcome.waits),
        mean_wait_seconds=outcome.mean_wait,
        p95_wait_seconds=outcome.wait(0.95),
        given_back=outcome.given_back,
    )


def row(answer: Any) -> dict[str, Any]:
    """A dataclass for JSON, in as many digits as mean something."""
    return {
        name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in asdict(answer).items()
    }
