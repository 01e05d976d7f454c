"""What it costs to have no GPU while nobody asks: answered by simulation."""

from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.capacity.cluster import Fleet, Outcome, poisson, simulate

SEED = 1


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
    outcome: Outcome = simulate(poisson(per_hour, job_seconds, SEED), fleet, jobs)
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
