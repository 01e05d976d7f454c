"""The janitor: brings back what was lost, removes what is over.

Every gateway runs one. They are not in each other's way, because scripts hand out what is due.
"""

import logging
import threading
import time

from adaspa_service.contract.queue import QueueUnavailable, enqueue
from adaspa_service.contract.scripts import StoreUnavailable
from adaspa_service.contract.storage import StorageUnavailable
from adaspa_service.gateway.admission import note_sent
from adaspa_service.gateway.parts import Parts
from adaspa_service.gateway.removal import remove, remove_orphaned_checkpoints

log = logging.getLogger(__name__)

EVERY_SECONDS = 1.0
ORPHANS_SECONDS = 60.0
"""Between two looks for checkpoints that nobody will resume: they cost a listing."""


class Janitor:
    """A thread that sweeps every second, for the length of a ``with`` block."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)
        self._away = False
        self._orphans_due = 0.0

    def __enter__(self) -> "Janitor":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def sweep(self) -> None:
        """One round: lost workers, unsent and vanished messages, expired and discarded jobs.

        Raises:
            StoreUnavailable, QueueUnavailable, StorageUnavailable: what was not done is done in a later round.
        """
        store = self.parts.store
        self.parts.catalog.follow(store.announced())
        if adopted := store.adopt():
            log.info("%d jobs of an earlier version adopted", adopted)
        for job_id in store.requeue_expired():
            log.warning("%s: its worker was lost; back in the queue", job_id)
        for model in self.parts.catalog.models:
            store.resend_lost(model)
        for job in store.take_unsent():
            enqueue(self.parts.celery, job)
            note_sent(self.parts, job.id)
        store.expire()
        for job_id in store.take_purgeable():
            remove(self.parts, job_id)
        if time.monotonic() >= self._orphans_due:
            self._orphans_due = time.monotonic() + ORPHANS_SECONDS
            remove_orphaned_checkpoints(self.parts)

    def _run(self) -> None:
        while not self._stopping.wait(EVERY_SECONDS):
            try:
                self.sweep()
                self._away = False
            except (StoreUnavailable, QueueUnavailable, StorageUnavailable) as error:
                if not self._away:  # once, not every second of an outage
                    log.warning("janitor: %s", error)
                self._away = True
            except Exception:
                log.exception("janitor: unexpected error")
