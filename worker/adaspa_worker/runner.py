"""Run one job from its claim to its end: completed, failed, cancelled, released, or left to a later attempt.

Nothing here imports torch: the first job of a worker is claimed, and shown as loading, before that takes its seconds.
"""

import logging
import math
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

from adaspa_api.words import ErrorCode, Priority
from adaspa_jobs import logs, tracing
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.storage import StorageUnavailable
from adaspa_jobs.store import JobCancelled, JobStore, Lease, LeaseLost, StoreUnavailable

from adaspa_worker import metrics
from adaspa_worker.attempt import Attempt
from adaspa_worker.failure import describe, is_the_workers
from adaspa_worker.lease import TELL_SECONDS, Interruption, LeaseKeeper, WorkerStopping, retry
from adaspa_worker.objects import remove_unused
from adaspa_worker.resources import Resources

log = logging.getLogger(__name__)

UNWIND_SECONDS = 30.0
BACK_OFF_SECONDS = (1.0, 5.0, 15.0, 60.0)
STORED_SECONDS = 60.0
"""A storage that took something so recently is not probed before the next job."""


@dataclass(kw_only=True)
class Runner(Resources):
    """Runner of a worker's jobs: what all of them share, beside what an attempt has of it.

    Args:
        store: where records live.
        stopping: True once the worker is shutting down.
        end_process: ends this process at once, to be replaced by a new one; does not return.
        hear_seconds: time within which a cancel is heard, well below a lease's length.
        time_limit_seconds: how long a job may run, over all its attempts.
        tell_seconds: how often the store is told of a job's progress, at most.
        unwind_seconds: how long an attempt may take to end once it is to.
        back_off_seconds: how long the worker takes no jobs after its first, second, ... failure in a row that was its
            own; the last of these goes on.
        priorities: the queues that are served.
        process: tells this process from an earlier one of the same worker.
        spec: the catalog entry; jobs that ask for what it lacks are left to other workers. None: it runs every job.
    """

    store: JobStore
    stopping: Callable[[], bool]
    end_process: Callable[[], None]
    hear_seconds: float
    time_limit_seconds: float
    tell_seconds: float = TELL_SECONDS
    unwind_seconds: float = UNWIND_SECONDS
    back_off_seconds: Sequence[float] = BACK_OFF_SECONDS
    priorities: Collection[Priority] = tuple(Priority)
    process: str = field(default_factory=lambda: secrets.token_hex(8))
    spec: ModelSpec | None = None
    _own_failures: int = 0
    """Consecutive failures."""
    _stored_at: float = -math.inf
    """Time at which storage last took something."""

    def run(self, model: str) -> None:
        """Run the model's job that is next, if one waits.

        Raises:
            WorkerStopping: the job went back to the queue; its message has to go there too.
            StoreUnavailable: the store cannot be reached; the lease runs out and a later attempt takes over.
        """
        if not self._can_store():
            self._recover(ErrorCode.storage_unavailable)
            return
        lease = self.store.claim(model, self.name, self.process, self.priorities, self.spec)
        if lease is None:
            log.info("nothing to do")
            return
        attempt = Attempt(self, lease)
        told = logs.bound(job=lease.job.id, attempt=lease.attempt)
        with told, tracing.continued(lease.job.trace), metrics.busy.labels(model).track_inprogress():
            try:
                own_failure = self._run(attempt, lambda outcome: metrics.attempts.labels(model, outcome).inc())
            finally:  # here, where an error's traceback no longer holds the job's tensors
                self._reset(attempt)
            if own_failure:
                self._recover(own_failure)

    def _run(self, attempt: Attempt, ended: Callable[[str], None]) -> ErrorCode | None:
        """Run an attempt to its end; the error's code, if this worker was at fault."""
        lease, job_id = attempt.lease, attempt.lease.job.id
        log.info("%s: attempt %d", job_id, lease.attempt)
        try:
            return self._to_its_end(attempt, ended)
        except StoreUnavailable:
            ended("store_unavailable")
            log.error("%s: could not end attempt %d; its lease will expire", job_id, lease.attempt)
            raise
        finally:
            remove_unused(self.store, self.storage, lease)

    def _to_its_end(self, attempt: Attempt, ended: Callable[[str], None]) -> ErrorCode | None:
        """Run an attempt, and tell the store how it ended. Raises StoreUnavailable where that cannot be told."""
        lease, job_id = attempt.lease, attempt.lease.job.id
        try:
            with self._keeper(lease) as keeper:
                result = attempt.run(keeper)
            retry(partial(self.store.complete, lease, *result), self.stopping)
            ended("completed")
            log.info("%s: completed", job_id)
            self._own_failures, self._stored_at = 0, time.monotonic()
        except JobCancelled:
            self._end(lease, self.store.release_cancelled)
            ended("cancelled")
            log.info("%s: cancelled", job_id)
        except LeaseLost:
            ended("lease_lost")
            log.warning("%s: attempt %d lost its lease", job_id, lease.attempt)
        except WorkerStopping:
            self._end(lease, self.store.release)
            ended("released")
            log.info("%s: released", job_id)
            raise
        except StoreUnavailable:
            raise
        except Exception as error:
            job_error, own = describe(error), is_the_workers(error)
            log.exception("%s: %s", job_id, job_error.code)
            end = self.store.requeue_after_worker_error if own else self.store.fail
            self._end(lease, partial(end, error=job_error))
            ended("worker_error" if own else "failed")
            return job_error.code if own else None
        return None

    def _can_store(self) -> bool:
        """Return whether storage takes files; asks unless it took some a moment ago.

        A worker that could not store a video starts no job, because another worker's storage may work.
        """
        if time.monotonic() - self._stored_at < STORED_SECONDS:
            return True
        try:
            self.storage.check()
        except StorageUnavailable as error:
            log.error("cannot take jobs: %s", error)
            return False
        self._stored_at = time.monotonic()
        return True

    def _keeper(self, lease: Lease) -> LeaseKeeper:
        return LeaseKeeper(
            self.store,
            lease,
            self.stopping,
            every=self.hear_seconds,
            limit=self.time_limit_seconds - lease.job.ran_ms / 1000,
            unwind=self.unwind_seconds,
            abandon=partial(self._abandon, lease),
            tell_every=self.tell_seconds,
        )

    def _reset(self, attempt: Attempt) -> None:
        try:
            attempt.reset()
        except Exception:  # whatever it is, the engine is not fit for another job
            log.exception("%s: the engine cannot be reset; ending the process", attempt.lease.job.id)
            self.end_process()

    def _recover(self, failure: ErrorCode) -> None:
        """After a failure that was this worker's own, take no job for a while: another worker may be better off."""
        delay = self.back_off_seconds[min(self._own_failures, len(self.back_off_seconds) - 1)]
        self._own_failures += 1
        self._stored_at = -math.inf
        log.warning("taking no jobs for %.0f s", delay)
        until = time.monotonic() + delay
        while time.monotonic() < until and not self.stopping():
            time.sleep(0.1)
        if failure is ErrorCode.device_failed:
            self.end_process()

    def _abandon(self, lease: Lease, reason: Interruption) -> None:
        """End an attempt that hangs, from another thread: as its reason says, and with it the process."""
        log.error("%s: does not stop; ending its process (%s)", lease.job.id, type(reason).__name__)
        try:
            if isinstance(reason, JobCancelled):
                self._end(lease, self.store.release_cancelled)
            elif not isinstance(reason, LeaseLost):
                end = self.store.requeue_after_worker_error if is_the_workers(reason) else self.store.fail
                self._end(lease, partial(end, error=describe(reason)))
            remove_unused(self.store, self.storage, lease)
        except StoreUnavailable as error:
            log.error("%s: could not end attempt %d: %s", lease.job.id, lease.attempt, error)
        finally:
            self.end_process()

    def _end(self, lease: Lease, transition: Callable[[Lease], None]) -> None:
        """Make a final transition; a cancel or a lost lease that comes first wins."""
        try:
            try:
                retry(partial(transition, lease), self.stopping)
            except JobCancelled:
                retry(partial(self.store.release_cancelled, lease), self.stopping)
        except LeaseLost:
            log.warning("%s: attempt %d lost its lease at the end", lease.job.id, lease.attempt)
