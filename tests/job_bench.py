"""A worker's runner with its store and storage, in which a test may act at a step or a phase of the running job."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from adaspa_jobs.job import Job, JobParams, Progress
from adaspa_jobs.store import JobStore, Lease
from adaspa_service.gateway.removal import tidy
from adaspa_worker.runner import Runner
from admitting import create


class Spy(JobStore):
    """The real store, which also notes the progress and lets a test act at a step of the running job."""

    def __init__(self, client: redis.Redis, **limits: Any) -> None:
        super().__init__(client, **limits)
        self.at_step: dict[int, Callable[[Lease], object]] = {}
        self.at_phase: dict[str, Callable[[Lease], object]] = {}
        self.seen: list[Progress] = []

    def report_progress(self, lease: Lease, *told: Progress) -> None:
        [progress] = told
        self.seen.append(progress)
        if progress.phase == "denoising" and (act := self.at_step.pop(progress.step, None)):
            act(lease)
        if act := self.at_phase.pop(progress.phase, None):
            act(lease)
        super().report_progress(lease, progress)

    def lose(self, lease: Lease) -> None:
        """End a lease, as if it had run out; its keeper may renew it in between."""
        while self.requeue_expired() != [lease.job.id]:
            self.client.zadd("adaspa:leases", {lease.job.id: 0})


@dataclass
class Bench:
    """A runner with its store and storage."""

    runner: Runner
    store: Spy
    objects: Path
    scratch: Path
    stopping: threading.Event
    ended: threading.Event
    """Set when the process would have ended."""

    def run(self, params: JobParams) -> Job:
        """Create and run a job; its record afterwards."""
        if params.inputs_folder:
            self.store.await_inputs(params.inputs_folder)  # as the gateway does
        job = create(self.store, params)
        self.runner.run(params.model)
        return self.job(job.id)

    def job(self, job_id: str) -> Job:
        job = self.store.get(job_id)
        assert job is not None
        return job

    def files(self) -> list[str]:
        """Every object in storage, once a janitor has been there, and every temporary file."""
        for job_id in self.store.take_untidy():
            tidy(self.store, self.runner.storage, job_id)
        return sorted(
            str(path.relative_to(root))
            for root in (self.objects, self.scratch)
            for path in root.rglob("*")
            if path.is_file()
        )

    def steps(self) -> list[int]:
        return [progress.step for progress in self.store.seen if progress.phase == "denoising"]
