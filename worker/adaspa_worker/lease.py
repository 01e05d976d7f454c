"""Keeping a job's lease alive, and hearing of the reasons to stop, during phases that have no steps."""

import logging
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from types import TracebackType

from adaspa_service.contract.job import Progress
from adaspa_service.contract.store import JobCancelled, JobStore, Lease, LeaseLost, StoreUnavailable

from adaspa_worker.heartbeat import beat

log = logging.getLogger(__name__)

RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Between the tries of what must not fail for a short outage."""


class WorkerStopping(Exception):
    """The worker was asked to shut down: the job it runs goes back to the queue."""


class LeaseKeeper:
    """Renew a lease from a thread, and tell the job's own thread when it has to stop.

    A renewal that finds the job cancelled, or the lease with another attempt, is remembered; ``check`` and
    ``report`` raise it where the job can be unwound. When the store cannot be reached the job goes on: the lease
    outlives a short outage, and the final compare-and-set decides.

    Args:
        store: the job store.
        lease: the claimed lease.
        stopping: returns True once the worker is shutting down.
        every: seconds between two renewals.
    """

    def __init__(self, store: JobStore, lease: Lease, stopping: Callable[[], bool], every: float) -> None:
        self.store, self.lease, self.stopping, self.every = store, lease, stopping, every
        self._reason: JobCancelled | LeaseLost | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=copy_context().run, args=(self._renew,), name="lease", daemon=True)

    def __enter__(self) -> "LeaseKeeper":
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def check(self) -> None:
        """Raise JobCancelled, LeaseLost or WorkerStopping if the job has to stop; costs no round trip."""
        if self._reason is not None:
            raise self._reason
        if self.stopping():
            raise WorkerStopping

    def wait(self, seconds: float) -> None:
        """Sleep; raises as ``check`` does, as soon as there is a reason."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, 0.1))

    def report(self, progress: Progress) -> None:
        """Publish progress, which renews the lease too; raises as ``check`` does."""
        self.check()
        try:
            self.store.report_progress(self.lease, progress)
        except StoreUnavailable as error:
            log.warning("%s: progress not reported: %s", self.lease.job.id, error)

    def report_preview(self, progress: Progress, image: bytes) -> None:
        """Publish a preview; raises as ``check`` does."""
        self.check()
        try:
            self.store.report_preview(self.lease, progress, image)
        except StoreUnavailable as error:
            log.warning("%s: preview not reported: %s", self.lease.job.id, error)

    def _renew(self) -> None:
        while not self._done.wait(self.every):
            beat()
            try:
                self.store.renew(self.lease)
            except (JobCancelled, LeaseLost) as reason:
                self._reason = reason
                return
            except StoreUnavailable as error:
                log.warning("%s: lease not renewed: %s", self.lease.job.id, error)


def insist(transition: Callable[[], None]) -> None:
    """Make a transition that ends an attempt, again for a while when the store is away: hours of work hang on it."""
    for delay in RETRY_SECONDS:
        try:
            return transition()
        except StoreUnavailable as error:
            log.warning("the store is away, trying again in %s s: %s", delay, error)
            time.sleep(delay)
    return transition()
