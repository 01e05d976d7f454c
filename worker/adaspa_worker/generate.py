"""Run one job from its claim to its end: completed, failed, cancelled, given back, or left to a later attempt.

Nothing here imports torch: the first job of a worker is claimed, and shown as loading, before that takes its seconds.
"""

import logging
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from adaspa_service.contract import logs
from adaspa_service.contract.job import TERMINAL, JobStatus, Priority
from adaspa_service.contract.storage import ObjectStorage, StorageUnavailable, checkpoint_prefix
from adaspa_service.contract.store import JobCancelled, JobStore, Lease, LeaseLost, StoreUnavailable

from adaspa_worker import metrics
from adaspa_worker.attempt import Attempt, attempt_prefix
from adaspa_worker.failure import describe
from adaspa_worker.lease import LeaseKeeper, WorkerStopping, insist

if TYPE_CHECKING:
    from adaspa_worker.pipeline import Engine

log = logging.getLogger(__name__)


@dataclass
class Runner:
    """What every job of this worker shares.

    Args:
        store, storage: where records and objects live.
        engine: returns the loaded engine of a model, loading it at the first call; raises ModelUnavailable.
        name: the worker's, which no other has.
        stopping: True once the worker is shutting down.
        renew_seconds: how often the lease is renewed, well below its length.
        checkpoint_steps, checkpoint_seconds: how often a denoising is checkpointed, whichever comes first.
        upload_retry_seconds: how long an upload is tried again while storage is away.
        priorities: the queues that are served.
        process: tells this process from an earlier one of the same worker.
    """

    store: JobStore
    storage: ObjectStorage
    engine: Callable[[str], "Engine"]
    name: str
    stopping: Callable[[], bool]
    renew_seconds: float
    checkpoint_steps: int | None = None
    checkpoint_seconds: float = 30.0
    upload_retry_seconds: float = 120.0
    priorities: Collection[Priority] = tuple(Priority)
    process: str = field(default_factory=lambda: secrets.token_hex(8))

    def run(self, model: str) -> None:
        """Run the model's job that is next, if one waits.

        Raises:
            WorkerStopping: the job went back to the queue; its message has to go there too.
            StoreUnavailable: the store cannot be reached; the lease runs out and a later attempt takes over.
        """
        lease = self.store.claim(model, self.name, self.process, self.priorities)
        if lease is None:
            log.info("nothing to do")
            return
        with logs.bound(job=lease.job.id, attempt=lease.attempt), metrics.busy.labels(model).track_inprogress():
            self._run(lease, lambda outcome: metrics.attempts.labels(model, outcome).inc())

    def _run(self, lease: Lease, ended: Callable[[str], None]) -> None:
        job_id = lease.job.id
        log.info("%s: attempt %d", job_id, lease.attempt)
        try:
            with LeaseKeeper(self.store, lease, self.stopping, self.renew_seconds) as keeper:
                Attempt(self, lease, keeper).run()
            ended("completed")
            log.info("%s: completed", job_id)
            self._remove_earlier_objects(lease)
        except JobCancelled:
            self._end(lease, self.store.release_cancelled)
            ended("cancelled")
            log.info("%s: cancelled", job_id)
        except LeaseLost:
            ended("lease_lost")
            log.warning("%s: attempt %d lost its lease", job_id, lease.attempt)
        except WorkerStopping:
            self._end(lease, self.store.give_back)
            ended("given_back")
            log.info("%s: given back", job_id)
            raise
        except StoreUnavailable:
            ended("store_unavailable")
            log.error("%s: attempt %d could not be ended; its lease runs out", job_id, lease.attempt)
            raise
        except Exception as error:
            job_error = describe(error)
            ended("failed")
            log.exception("%s: %s", job_id, job_error.code)
            self._end(lease, partial(self.store.fail, error=job_error))
        finally:
            self._remove_unused_objects(lease)

    def _end(self, lease: Lease, transition: Callable[[Lease], None]) -> None:
        """Make a final transition; a cancel or a lost lease that comes first wins."""
        try:
            try:
                insist(partial(transition, lease))
            except JobCancelled:
                insist(partial(self.store.release_cancelled, lease))
        except LeaseLost:
            log.warning("%s: attempt %d lost its lease at the end", lease.job.id, lease.attempt)

    def _remove_earlier_objects(self, lease: Lease) -> None:
        """Remove what attempts left whose worker was killed."""
        for attempt in range(1, lease.attempt):
            try:
                self.storage.delete_prefix(attempt_prefix(lease.job.id, attempt))
            except StorageUnavailable as error:
                log.warning("%s: objects of attempt %d may be left: %s", lease.job.id, attempt, error)

    def _remove_unused_objects(self, lease: Lease) -> None:
        """Remove what this attempt wrote, unless the record says that it is the job's result.

        The record is asked because a completion whose answer was lost on the way looks like a lost lease.
        """
        try:
            job = self.store.get(lease.job.id)
            if job is None or job.status is not JobStatus.completed or job.attempt != lease.attempt:
                self.storage.delete_prefix(attempt_prefix(lease.job.id, lease.attempt))
            if job is None or job.status in TERMINAL:
                self.storage.delete_prefix(checkpoint_prefix(lease.job.id))
        except (StoreUnavailable, StorageUnavailable) as error:
            log.warning("%s: objects of attempt %d may be left: %s", lease.job.id, lease.attempt, error)
