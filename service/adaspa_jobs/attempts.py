"""Transitions for a worker: an attempt at a job, under a lease, from its claim to its end."""

import json
import logging
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from adaspa_api.report import AttentionReport, JobError
from adaspa_api.words import ErrorCode, Priority

from adaspa_jobs.append_only import AppendOnlyFile
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import SCHEMA_VERSION, Artifact, Job, Progress
from adaspa_jobs.record import RecordUnreadable, job_from_pairs
from adaspa_jobs.scripts import Scripts
from adaspa_jobs.times import Timed, preset_of

log = logging.getLogger(__name__)

NONCE_BYTES = 6
UNREADABLE = JobError(code=ErrorCode.record_damaged, message="No worker can read the job's record.")
"""Error of a job whose attempts all ended before they had read what is to be made."""


class LeaseLost(Exception):
    """Refusal: the job is with another attempt, or has ended."""


class JobCancelled(Exception):
    """Refusal: the job is to be cancelled, so the attempt has to stop and call ``release_cancelled``."""


@dataclass(frozen=True)
class Lease:
    """Right to run a job. Its token fences: once another attempt began, this one is refused everything."""

    job: Job
    """Job as it was claimed."""

    @property
    def attempt(self) -> int:
        """Number of attempts at the job that began, this one included."""
        return self.job.attempt

    @property
    def token(self) -> str:
        """Token that no other attempt has."""
        return self.job.token


def given_up(max_attempts: int) -> JobError:
    """Return the error of a job whose attempts are used up."""
    return JobError(code=ErrorCode.worker_lost, message=f"The job lost its worker {max_attempts} times.")


def _offers(spec: ModelSpec) -> dict[str, Any]:
    """Return what a request may ask for by a catalog entry, as ``claim.lua`` has it."""
    return {
        "inputs": {",".join(sorted(task.roles)): True for task in spec.tasks},
        "loras": {lora.name: lora.sha256 for lora in spec.loras},
        "max_loras": spec.max_loras,
        "audio": spec.audio,
    }


class Attempts:
    """Part of a JobStore for workers."""

    max_attempts: int
    file: AppendOnlyFile
    _scripts: Scripts
    _passed_over: set[str]

    def start_worker(self, worker: str) -> str | None:
        """Queue the job that an earlier process of this worker was running when it died, without waiting for its lease.

        Call it before the worker takes jobs. The attempt is counted as lost. Returns the id of the job that is queued.
        """
        given = given_up(self.max_attempts).model_dump_json()
        job_id = self._scripts.run("start_worker", worker=worker, given_up=given)
        return job_id.decode() if job_id else None

    def claim(
        self,
        model: str,
        worker: str,
        process: str = "",
        priorities: Collection[Priority] = tuple(Priority),
        spec: ModelSpec | None = None,
    ) -> Lease | None:
        """Begin an attempt at the model's job that is next; None if none waits that this worker can run.

        May be repeated: a worker runs one job at a time, so a job that it still holds as it claims is one whose answer
        was lost, and is given to it again, as a new attempt. If it was another process of the worker that held the job,
        that process has died, and the attempt is counted as lost.

        Args:
            model: the worker's.
            worker: a name that no other worker has.
            process: of the worker's processes, the one that asks.
            priorities: the queues that the worker serves.
            spec: its catalog entry. A job that asks for inputs, sound or adapters which this lacks is left to other
                workers, as while a catalog is being changed. None: it takes every job.
        """
        found = self._scripts.run(
            "claim",
            model=model,
            priorities=list(priorities),
            worker=worker,
            process=process,
            version=SCHEMA_VERSION,
            offers=None if spec is None else _offers(spec),
            gpus=None if spec is None else spec.gpus,
            nonce=secrets.token_hex(NONCE_BYTES),
            given_up=given_up(self.max_attempts).model_dump_json(),
        )
        if isinstance(found, bytes):
            job_id, _, which = found.decode().partition(" ")
            if which not in self._passed_over:  # once: it is asked again every few seconds
                self._passed_over.add(which)
                log.warning("%s: requires a worker %s", job_id, which)
        if not isinstance(found, list):
            return None
        try:
            return Lease(job_from_pairs(*found))
        except RecordUnreadable as error:
            log.error("%s", error)  # held on to, it would come again as one whose answer was lost, for ever
            job_id, pairs = found
            token = dict(zip(pairs[::2], pairs[1::2], strict=True))[b"token"].decode()
            self._scripts.run(
                "end", id=job_id.decode(), token=token, outcome="worker_error", error=UNREADABLE.model_dump_json()
            )
            return None

    def report_progress(self, lease: Lease, *told: Progress) -> None:
        """Publish progress, each with an event of its own and the latest last, and renew the lease.

        Raises:
            LeaseLost, JobCancelled.
        """
        self._transition("renew", lease, told=[each.model_dump_json(exclude_none=True) for each in told])

    def report_preview(self, lease: Lease, progress: Progress, image: bytes) -> None:
        """Publish a WebP of what ``progress.preview_step`` led to; it replaces the one before.

        Raises:
            LeaseLost, JobCancelled.
        """
        step = progress.preview_step
        assert step is not None
        told = progress.model_dump_json(exclude_none=True)
        self._transition("preview", lease, progress=told, step=step, content=image)

    def renew(self, lease: Lease) -> None:
        """Renew the lease. Raises LeaseLost, JobCancelled."""
        self._transition("renew", lease, told=[])

    def hear(self, lease: Lease) -> None:
        """Ask whether the attempt may go on, without renewing the lease: nothing is written.

        Raises:
            LeaseLost, JobCancelled.
        """
        self._transition("hear", lease)

    def complete(
        self,
        lease: Lease,
        artifacts: dict[str, Artifact],
        report: AttentionReport,
        timings: dict[str, float],
        warnings: Sequence[str] = (),
    ) -> None:
        """in_progress -> completed; also if the lease ran out, as long as no other attempt has begun. May be repeated.

        Raises:
            LeaseLost, JobCancelled.
        """
        preset, timed = preset_of(lease.job.params), Timed.of(lease.job.params, timings)
        described = json.dumps({name: artifact.model_dump() for name, artifact in artifacts.items()})
        self._end(
            lease,
            "completed",
            report.model_dump_json().encode(),
            artifacts=described,
            timings=json.dumps(timings),
            warnings=json.dumps(list(warnings)),
            preset=preset,
            timed=timed.model_dump_json() if preset and timed else None,
        )
        self.file.synced()

    def fail(self, lease: Lease, error: JobError) -> None:
        """in_progress -> failed. May be repeated. Raises LeaseLost, JobCancelled."""
        self._end(lease, "failed", error=error.model_dump_json())

    def requeue_after_worker_error(self, lease: Lease, error: JobError) -> None:
        """Return a job to the queue after an error that the worker caused.

        The job fails with the error once that has happened ``max_attempts`` times. May be repeated. Raises LeaseLost,
        JobCancelled.
        """
        self._end(lease, "worker_error", error=error.model_dump_json())

    def release_cancelled(self, lease: Lease) -> None:
        """in_progress -> cancelled, after JobCancelled. May be repeated. Raises LeaseLost."""
        self._end(lease, "cancelled")

    def release(self, lease: Lease) -> None:
        """in_progress -> queued, when the worker stops. May be repeated. Raises LeaseLost, JobCancelled."""
        self._end(lease, "released")

    def _end(self, lease: Lease, outcome: str, report: bytes = b"", **what: str | None) -> None:
        self._transition("end", lease, outcome=outcome, content=report, **what)

    def _transition(self, script: str, lease: Lease, **arguments: Any) -> None:
        outcome = self._scripts.run(script, id=lease.job.id, token=lease.token, **arguments)
        if outcome == b"lost":
            raise LeaseLost(f"{lease.job.id}: attempt {lease.attempt} no longer holds the lease")
        if outcome == b"cancelled":
            raise JobCancelled(lease.job.id)
