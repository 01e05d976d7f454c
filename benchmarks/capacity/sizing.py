"""How many GPUs a promise needs, by Erlang's C formula (M/M/c).

Requests arrive at random and wait in one queue. The formula takes job times to be random too; where all jobs are
equally long they wait about half as much, so that a fleet sized by it is not too small.
"""

import math
from dataclasses import dataclass
from itertools import count

MOST_BUSY = 0.95
"""No fleet is planned to be busier: beyond it, a queue that has once grown is there for hours."""


@dataclass(frozen=True)
class Sizing:
    """The least workers that keep a promise, and how busy they are."""

    per_hour: float
    target_seconds: float
    """What the p95 of the wait may be."""
    workers: int
    p95_seconds: float
    utilisation: float


def erlang_c(workers: int, load: float) -> float:
    """The probability that a job has to wait, ``load`` being the mean number of jobs that run, below ``workers``."""
    blocked = 1.0  # Erlang's B formula, by its recurrence: factorials of hundreds are no numbers for a float
    for number in range(1, workers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked / (1 - load / workers * (1 - blocked))


def mean_wait(workers: int, load: float, job_seconds: float) -> float:
    """The seconds that a job waits on average."""
    return erlang_c(workers, load) * job_seconds / (workers - load)


def wait(quantile: float, workers: int, load: float, job_seconds: float) -> float:
    """The seconds that this share of the jobs does not exceed: whoever waits, waits for an exponential time."""
    exceeding = erlang_c(workers, load) / (1 - quantile)
    return max(0.0, math.log(exceeding)) * job_seconds / (workers - load)


def workers_for(per_hour: float, job_seconds: float, target_seconds: float) -> Sizing:
    """The least workers with which 95 % of the jobs wait no longer than the target."""
    load = per_hour * job_seconds / 3600
    for workers in count(math.ceil(load / MOST_BUSY)):
        p95 = wait(0.95, workers, load, job_seconds)
        if p95 <= target_seconds:
            break
    return Sizing(per_hour, target_seconds, workers, p95, load / workers)
