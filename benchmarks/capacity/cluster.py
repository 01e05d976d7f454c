"""A cluster as a discrete-event simulation: jobs arrive and wait, workers run one at a time, come and go.

Times are in seconds, and each worker has one GPU. The queue is first come, first served.
"""

import random
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import simpy

END_EVERY = 60.0
"""Workers that may be in the middle of a job are ended one at a time, so often."""


@dataclass(frozen=True)
class Fleet:
    """How many workers there are, and how their number follows the jobs."""

    minimum: int
    maximum: int
    start_seconds: float = 0.0
    """From the decision to start a worker until it takes jobs: node, image, process."""
    load_seconds: float = 0.0
    """A worker's first job loads the model."""
    poll_seconds: float = 15.0
    """How often the number of jobs is looked at."""
    cooldown_seconds: float = 600.0
    """A number of workers stays for this long after it was last needed."""
    ending: Literal["idle", "any"] = "idle"
    """Which workers may be ended: those of a model without jobs, or any; a job that is hit then goes on elsewhere."""


@dataclass
class Job:
    """One request."""

    arrived: float
    seconds: float
    """Work that is left."""
    waited: float | None = None
    """Until its first attempt began to denoise, the loading of the model included."""


@dataclass
class Outcome:
    """What came of a simulation."""

    waits: list[float] = field(default_factory=list)
    """Of each job, in the order of the arrivals."""
    gpu_seconds: float = 0.0
    """From each worker's start to its end, whether it worked or not."""
    busy_seconds: float = 0.0
    span_seconds: float = 0.0
    """From the beginning to the last job's end."""
    starts: int = 0
    given_back: int = 0
    """Jobs that were interrupted and went on elsewhere."""

    def wait(self, quantile: float) -> float:
        """The wait that this share of the jobs does not exceed; 0 without jobs."""
        ordered = sorted(self.waits)
        return ordered[min(int(quantile * len(ordered)), len(ordered) - 1)] if ordered else 0.0

    @property
    def mean_wait(self) -> float:
        """0 without jobs."""
        return sum(self.waits) / max(len(self.waits), 1)


def poisson(per_hour: float, seconds: float, seed: int) -> Iterator[tuple[float, float]]:
    """Endless arrivals at random, as many users make them: gap to the one before, and work, in seconds."""
    numbers = random.Random(seed)
    while True:
        yield numbers.expovariate(per_hour / 3600), seconds


def simulate(arrivals: Iterable[tuple[float, float]], fleet: Fleet, jobs: int) -> Outcome:
    """Run so many jobs through a fleet, to the end of the last one.

    Args:
        arrivals: gap to the arrival before, and work, in seconds.
        fleet: the workers.
        jobs: how many of the arrivals are taken.
    """
    return Cluster(fleet).run(islice(arrivals, jobs))


class Cluster:
    """The state of one simulation."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.outcome = fleet, Outcome()
        self.env = simpy.Environment()
        self.waiting: deque[Job] = deque()
        self.arrived = self.env.event()
        self.running = 0
        self.workers: list[simpy.Process] = []
        self.needed: deque[tuple[float, int]] = deque()
        """When how many workers were needed, over the length of the cooldown."""

    def run(self, arrivals: Iterable[tuple[float, float]]) -> Outcome:
        """Run all arrivals to their end."""
        for _ in range(self.fleet.minimum):
            self.start_worker(0.0)
        if self.fleet.maximum > self.fleet.minimum:
            self.env.process(self.scale())
        done = self.env.process(self.arrive(arrivals))
        self.env.run(done)
        while self.waiting or self.running:
            self.env.step()
        for worker in self.workers:
            worker.interrupt()
        end = self.env.now
        while self.workers:
            self.env.step()
        self.outcome.span_seconds = end
        return self.outcome

    def arrive(self, arrivals: Iterable[tuple[float, float]]) -> Iterator[Any]:
        """The process of the arrivals."""
        for gap, seconds in arrivals:
            yield self.env.timeout(gap)
            self.queue(Job(self.env.now, seconds))

    def queue(self, job: Job, first: bool = False) -> None:
        """Put a job into the queue; one that was given back goes to its head."""
        self.waiting.appendleft(job) if first else self.waiting.append(job)
        self.arrived.succeed()
        self.arrived = self.env.event()

    def start_worker(self, start_seconds: float) -> None:
        """Start a worker, which takes its time."""
        self.outcome.starts += 1
        self.workers.append(self.env.process(self.work(start_seconds)))

    def work(self, start_seconds: float) -> Iterator[Any]:
        """The process of a worker, from its start until it is interrupted."""
        began, load = self.env.now, self.fleet.load_seconds
        me = self.env.active_process
        job: Job | None = None
        taken = 0.0
        try:
            yield self.env.timeout(start_seconds)
            while True:
                while not self.waiting:
                    yield self.arrived
                job, taken = self.waiting.popleft(), self.env.now
                self.running += 1
                if job.waited is None:
                    job.waited = taken + load - job.arrived
                    self.outcome.waits.append(job.waited)
                yield self.env.timeout(load + job.seconds)
                self.outcome.busy_seconds += load + job.seconds
                self.running -= 1
                job, load = None, 0.0
        except simpy.Interrupt:
            if job is not None:
                self.give_back(job, self.env.now - taken, load)
        finally:
            self.workers.remove(me)
            self.outcome.gpu_seconds += self.env.now - began

    def give_back(self, job: Job, worked: float, load: float) -> None:
        """The job goes on elsewhere from the step that it had come to."""
        self.running -= 1
        self.outcome.busy_seconds += worked
        self.outcome.given_back += 1
        job.seconds -= max(0.0, worked - load)
        self.queue(job, first=True)

    def scale(self) -> Iterator[Any]:
        """The process of KEDA and the autoscaler: up at once, down only once the cooldown is over."""
        fleet, last_ended = self.fleet, -END_EVERY
        while True:
            now, wanted = self.env.now, self.wanted()
            self.needed.append((now, wanted))
            while self.needed[0][0] < now - fleet.cooldown_seconds:
                self.needed.popleft()
            for _ in range(wanted - len(self.workers)):
                self.start_worker(fleet.start_seconds)
            spare = max(0, len(self.workers) - max(count for _, count in self.needed))
            if fleet.ending == "any":
                spare = min(spare, int(now - last_ended >= END_EVERY))
            for worker in self.workers[:spare]:
                last_ended = now
                worker.interrupt()
            if not (self.waiting or self.running) and len(self.workers) == fleet.minimum:
                yield self.arrived  # until then nothing changes
            yield self.env.timeout(fleet.poll_seconds - self.env.now % fleet.poll_seconds)

    def wanted(self) -> int:
        """How many workers the jobs need now."""
        unfinished = len(self.waiting) + self.running
        if self.fleet.ending == "idle" and unfinished:
            unfinished = max(unfinished, len(self.workers))
        return min(max(unfinished, self.fleet.minimum), self.fleet.maximum)
