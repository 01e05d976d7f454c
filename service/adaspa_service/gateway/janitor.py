"""Janitor, which brings back what was lost and removes what is over.

Every gateway runs one. They are not in each other's way, because scripts hand out what is due.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial

from adaspa_jobs.scripts import StoreUnavailable
from adaspa_jobs.storage import StorageUnavailable

from adaspa_service.access import audit
from adaspa_service.access.open_access import Access
from adaspa_service.gateway.removal import (
    each,
    remove,
    remove_left_probes,
    remove_lost_inputs,
    remove_orphaned_checkpoints,
    tidy,
)
from adaspa_service.gateway.state import AppState

log = logging.getLogger(__name__)

EVERY_SECONDS = 1.0
ORPHANS_SECONDS = 60.0
"""Between two looks for checkpoints that nobody will resume: they cost a listing. And for images of no job."""
AGAIN_SECONDS = 10.0
"""After a look that failed: storage that refuses a file is not listed every second."""
STOP_SECONDS = 5.0
"""A chore that then still waits for storage or Redis ends with the process; another gateway does it again."""


class Janitor:
    """Two threads that make a round every second, for the duration of a ``with`` block.

    One looks after Redis and the other after storage, so that a storage that hangs does not keep lost jobs waiting.
    """

    def __init__(self, state: AppState) -> None:
        self.state = state
        self._chores: dict[str, tuple[Callable[[], None], ...]] = {
            "janitor": (
                self._watch_keys,
                self._write_acts,
                self._follow_models,
                self._requeue_lost,
                self._time_out,
                self._expire,
                self._tell_set_aside,
                self._trim_deliveries,
            ),
            "janitor-storage": (self._purge, self._tidy, self._remove_orphans),
        }
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(chores,), name=name, daemon=True)
            for name, chores in self._chores.items()
        ]
        self._away: set[str] = set()
        """Chores that failed in the latest round."""
        self._orphans_due = 0.0
        """Time of the next look, by the monotonic clock."""
        self._access: Access | None = None

    def __enter__(self) -> "Janitor":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(STOP_SECONDS)

    def sweep(self) -> None:
        """One round of each thread, one after the other."""
        for chores in self._chores.values():
            self._do(chores)

    def _do(self, chores: Iterable[Callable[[], None]]) -> None:
        """A chore that cannot be done keeps none of the others from being done; it is tried again in the next round."""
        for chore in chores:
            name = chore.__name__.strip("_")
            try:
                chore()
                self._away.discard(name)
            except (StoreUnavailable, StorageUnavailable) as error:
                if name not in self._away:  # once, not every second of an outage
                    log.warning("janitor: %s: %s", name, error)
                self._away.add(name)
                if isinstance(error, StoreUnavailable) and not self._store_answers():
                    return
            except Exception:
                log.exception("janitor: %s: unexpected error", name)

    def _store_answers(self) -> bool:
        """Tell whether it is worth doing the other chores: each would wait for a Redis that does not answer."""
        try:
            self.state.store.ping()
        except StoreUnavailable:
            return False
        return True

    def _watch_keys(self) -> None:
        before, self._access = self._access, self.state.entrance.now()
        if self._access is Access.lost and before is not Access.lost:
            log.error("all requests are refused: %s", self.state.entrance.lost())

    def _write_acts(self) -> None:
        for act in self.state.acts.take():
            audit.write(act)

    def _follow_models(self) -> None:
        self.state.catalog.follow(self.state.store.announced())

    def _requeue_lost(self) -> None:
        for job_id in self.state.store.requeue_expired():
            log.warning("%s: worker lost; job returned to the queue", job_id)

    def _time_out(self) -> None:
        for job_id in self.state.store.time_out():
            log.warning("%s: failed because no worker took it in time", job_id)

    def _expire(self) -> None:
        self.state.store.expire()

    def _tell_set_aside(self) -> None:
        for job_id in self.state.store.take_set_aside():
            log.error("%s: set aside, because its record in Redis is gone or cannot be read", job_id)

    def _purge(self) -> None:
        if ids := self.state.store.take_purgeable():
            self.state.store.file.synced()  # a deletion that Redis forgot would leave a video without its files
        each(self.state, ids, partial(remove, self.state))

    def _tidy(self) -> None:
        each(self.state, self.state.store.take_untidy(), partial(tidy, self.state.store, self.state.storage))

    def _remove_orphans(self) -> None:
        if time.monotonic() >= self._orphans_due:
            self._orphans_due = time.monotonic() + AGAIN_SECONDS
            orphans = (remove_lost_inputs, remove_orphaned_checkpoints, remove_left_probes)
            each(self.state, orphans, lambda remove_all: remove_all(self.state))
            self._orphans_due = time.monotonic() + ORPHANS_SECONDS

    def _trim_deliveries(self) -> None:
        for job_id in self.state.deliveries.trim():
            log.error("%s: webhook dropped, because too many are waiting", job_id)

    def _run(self, chores: Iterable[Callable[[], None]]) -> None:
        while not self._stopping.wait(EVERY_SECONDS):
            self._do(chores)
