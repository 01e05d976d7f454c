"""Keeping a job's lease alive, and hearing of the reasons to stop, during phases that have no steps."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from types import TracebackType

from adaspa_api.words import Phase
from adaspa_jobs.job import Progress
from adaspa_jobs.store import JobCancelled, JobStore, Lease, LeaseLost, StoreUnavailable

from adaspa_worker import group
from adaspa_worker.group import GroupFailed
from adaspa_worker.heartbeat import beat

log = logging.getLogger(__name__)

RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Between the tries of what must not fail for a short outage."""
STORE_RETRY_SECONDS = 1.0
"""Between the tries to tell the store how an attempt ended."""
STOPPING_SECONDS = 15.0
"""Seconds for which a worker that is to stop goes on trying that."""
GROUP_SECONDS = 5.0
"""A leader whose group has ended waits for it in the device; if it does not hear of the end within this, it hangs."""
HEAR_SECONDS = 2.0
"""A cancel is heard within this time."""
TELL_SECONDS = 1.0
"""Seconds from one time that the store is told of progress to the next: of all steps in between at once."""
RENEWED_SHARE = 0.2
"""A lease is renewed once this much of it is over. Until then the store is only asked whether the job may go on."""
MISSED_SECONDS = 1.0
"""After a renewal that failed, the next one comes this soon: the outage may have used up most of the lease."""


class WorkerStopping(Exception):
    """Request to shut down the worker: the job it runs goes back to the queue."""


class TimeLimitExceeded(Exception):
    """End of the time that the job may run."""


Interruption = JobCancelled | LeaseLost | TimeLimitExceeded | GroupFailed


class LeaseKeeper:
    """Renew a lease from a thread, tell the store of progress, and the job's own thread when it has to stop.

    All progress is published, but that of quick steps together: telling of one step costs the store nearly as much as
    telling of several.

    A renewal that finds the job cancelled, or the lease with another attempt, is remembered, and so are the end of the
    job's time and that of the worker's group; ``check`` and ``report`` raise it where the job can be unwound. An
    attempt that then does not end within ``unwind`` hangs, in a kernel or a file system for instance, and is abandoned.
    One that loads its model is given the whole time of the job to end: loading is slow, cannot be interrupted, and
    serves the next job.
    When the store cannot be reached the job goes on: the lease outlives a short outage, and the final compare-and-set
    decides.

    Args:
        store: the job store.
        lease: the claimed lease.
        stopping: returns True once the worker is shutting down.
        every: seconds within which a cancel is heard.
        limit: seconds that the job may still run.
        unwind: seconds that an attempt may take to end.
        abandon: ends a hanging attempt for this reason; called from the thread.
        tell_every: seconds between two times that the store is told of progress.
    """

    def __init__(
        self,
        store: JobStore,
        lease: Lease,
        stopping: Callable[[], bool],
        *,
        every: float,
        limit: float,
        unwind: float,
        abandon: Callable[[Interruption], None],
        tell_every: float = TELL_SECONDS,
    ) -> None:
        self.store, self.lease, self.stopping, self.abandon = store, lease, stopping, abandon
        self.every, self.unwind, self.tell_every = every, unwind, tell_every
        self.deadline = time.monotonic() + limit
        self._phase: Phase = "queued"
        self._reason: Interruption | None = None
        self._told_at = 0.0
        self._untold: deque[Progress] = deque()
        self._telling = threading.Lock()
        self._tell_at = 0.0
        self._heard_at = self._renewed_at = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=copy_context().run, args=(self._keep,), name="lease", daemon=True)

    def __enter__(self) -> "LeaseKeeper":
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        with suppress(JobCancelled, LeaseLost):  # whoever ends the attempt hears of them
            self._tell()

    def check(self) -> None:
        """Raise an error if the job has to stop, without a round trip.

        That is JobCancelled, LeaseLost, TimeLimitExceeded, GroupFailed or WorkerStopping.
        """
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
        """Publish progress, within ``tell_every``; raises as ``check`` does."""
        self.check()
        self._phase = progress.phase  # only now: a load that is told to stop has its grace until it is unwound
        self._untold.append(progress)
        if time.monotonic() >= self._tell_at:
            self._tell()

    def report_preview(self, progress: Progress, image: bytes) -> None:
        """Publish a preview; raises as ``check`` does."""
        self.check()
        self._tell()
        try:
            self.store.report_preview(self.lease, progress, image)
        except StoreUnavailable as error:
            log.warning("%s: could not report the preview: %s", self.lease.job.id, error)

    def _tell(self) -> None:
        """Tell the store of the progress since the last time, which renews the lease.

        Raises:
            JobCancelled, LeaseLost.
        """
        with self._telling:
            told = [self._untold.popleft() for _ in range(len(self._untold))]
            if not told or isinstance(self._reason, JobCancelled | LeaseLost):
                return
            now = time.monotonic()
            self._tell_at = now + self.tell_every
            try:
                self.store.report_progress(self.lease, *told)
                self._heard_at = self._renewed_at = now
            except StoreUnavailable as error:
                log.warning("%s: could not report progress: %s", self.lease.job.id, error)

    def _keep(self) -> None:
        hear_at = time.monotonic() + self.every
        while not self._done.wait(self._pause()):
            now = time.monotonic()
            if now >= self.deadline:
                self._interrupt(TimeLimitExceeded("The job exceeded its time limit."))
            if (failure := group.failure()) is not None:
                self._interrupt(failure)
            if self._untold and now >= self._tell_at:
                try:
                    self._tell()
                except (JobCancelled, LeaseLost) as reason:
                    self._interrupt(reason)
            if now >= hear_at:
                beat()
                heard = now - self._heard_at < self.every or self._hear()
                hear_at = self._heard_at + self.every if heard else now + min(self.every, MISSED_SECONDS)
            if self._reason is not None and now >= self._grace_until():
                self.abandon(self._reason)
                return

    def _pause(self) -> float:
        """Return the seconds until there may be something to do."""
        until = min(self.deadline, self._tell_at) if self._untold else self.deadline
        return min(self.every, MISSED_SECONDS, max(0.05, until - time.monotonic()))

    def _interrupt(self, reason: Interruption) -> None:
        """Note why the job has to stop. What was told first stays, because its end is the job's, too."""
        if self._reason is None:
            self._reason, self._told_at = reason, time.monotonic()

    def _hear(self) -> bool:
        """Ask whether the job may go on, and renew the lease if it is time; False if the store could not be asked."""
        now = time.monotonic()
        if not isinstance(self._reason, JobCancelled | LeaseLost):
            renews = now - self._renewed_at >= RENEWED_SHARE * self.store.lease_seconds
            try:
                (self.store.renew if renews else self.store.hear)(self.lease)
            except (JobCancelled, LeaseLost) as reason:
                self._interrupt(reason)
            except StoreUnavailable as error:
                log.warning("%s: could not renew the lease: %s", self.lease.job.id, error)
                return False
            if renews:
                self._renewed_at = now
        self._heard_at = now
        return True

    def _grace_until(self) -> float:
        """Return the time by which the attempt must end."""
        if isinstance(self._reason, GroupFailed):
            return self._told_at + min(GROUP_SECONDS, self.unwind)
        if self._phase == "loading":
            return max(self._told_at, self.deadline) + self.unwind
        return self._told_at + self.unwind


def retry(transition: Callable[[], None], stopping: Callable[[], bool]) -> None:
    """Make a transition that ends an attempt, again and again until the store has received it.

    Hours of work depend on it, and there is no other job to run meanwhile.

    Raises StoreUnavailable once the worker has been stopping for ``STOPPING_SECONDS``.
    """
    away, until = False, math.inf
    while True:
        try:
            return transition()
        except StoreUnavailable as error:
            if not away:
                log.warning("the store is unavailable; trying again until it is back: %s", error)
            away = True
            if stopping():
                until = min(until, time.monotonic() + STOPPING_SECONDS)
            if time.monotonic() >= until:
                raise
        time.sleep(STORE_RETRY_SECONDS)
