"""Removing a discarded job: its files first, then its record, so that a crash between the two loses neither."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from adaspa_api.words import TERMINAL
from adaspa_jobs.record import RecordDamaged, RecordUnreadable
from adaspa_jobs.scripts import StoreUnavailable
from adaspa_jobs.storage import (
    CHECKPOINTS,
    PROBES,
    ObjectStorage,
    StorageUnavailable,
    checkpoint_prefix,
    inputs_prefix,
    video_prefix,
)
from adaspa_jobs.store import JobStore

from adaspa_service.gateway.state import AppState

log = logging.getLogger(__name__)
Item = TypeVar("Item")

UNFINISHED_SECONDS = 3600.0
"""A file that nobody has written to for so long will not be finished."""


def each(state: AppState, items: Iterable[Item], act: Callable[[Item], None]) -> None:
    """Do this for all items, even if storage refuses some: a folder that cannot be removed, for example.

    Raises:
        StorageUnavailable: the first refusal, at the end, or at once if storage does not answer at all.
        StoreUnavailable: at once.
    """
    refused: StorageUnavailable | None = None
    for item in items:
        try:
            act(item)
        except StorageUnavailable as error:
            refused = refused or error
            asyncio.run(state.storage.ping())
    if refused:
        raise refused


def remove(state: AppState, job_id: str) -> None:
    """Remove a discarded job that has ended. Raises StorageUnavailable, StoreUnavailable.

    The files that its record names go first: they also go where storage refuses to list what else there may be.
    """
    with suppress(RecordUnreadable):
        job = state.store.get(job_id)
        for artifact in job.artifacts.values() if job else ():
            state.storage.delete(artifact.key)
    state.storage.delete_prefix(video_prefix(job_id))
    state.storage.delete_prefix(checkpoint_prefix(job_id))
    if folder := state.store.leave_inputs(job_id):
        state.storage.delete_prefix(inputs_prefix(folder))
    state.store.purge(job_id)


def tidy(store: JobStore, storage: ObjectStorage, job_id: str) -> None:
    """Remove what attempts at an ended job left beside its result: those whose worker was killed cannot.

    Raises StorageUnavailable, StoreUnavailable.
    """
    try:
        job = store.get(job_id)
    except RecordDamaged:  # nobody can say which its result is; all go with the record
        job = None
    except RecordUnreadable:  # a later version's, whose gateways look after it
        return
    if job is not None and job.status in TERMINAL:
        storage.delete_prefix(video_prefix(job_id), but={artifact.key for artifact in job.artifacts.values()})
        storage.delete_prefix(checkpoint_prefix(job_id))
    store.note_tidy(job_id)


def remove_orphaned_checkpoints(state: AppState) -> None:
    """Remove checkpoints whose job has ended or is gone, and such as were never finished.

    Raises StorageUnavailable, StoreUnavailable.
    """
    state.storage.remove_unfinished(CHECKPOINTS, written_before=time.time() - UNFINISHED_SECONDS)

    def remove_unless_in_use(job_id: str) -> None:
        try:
            job = state.store.get(job_id)
        except RecordUnreadable:  # a later version's, whose gateways look after it
            return
        if job is None or job.status in TERMINAL:
            state.storage.delete_prefix(checkpoint_prefix(job_id))

    ids = {key.removeprefix(CHECKPOINTS).split("/")[0] for key in state.storage.keys(CHECKPOINTS)}
    each(state, ids, remove_unless_in_use)


def remove_left_probes(state: AppState) -> None:
    """Remove what looks at storage left there that were cut off, or killed, before they could remove it.

    A look that is under way is none the worse for it. Raises StorageUnavailable.
    """
    state.storage.remove_unfinished(PROBES, written_before=time.time() - UNFINISHED_SECONDS)
    for key in state.storage.keys(PROBES):
        state.storage.delete(key)


def remove_lost_inputs(state: AppState) -> None:
    """Remove images whose request came to nothing: Redis was away, or the gateway killed, before it was admitted.

    Redis itself says which: a gateway on a wrong one or an emptied one removes nothing.

    Raises StorageUnavailable, StoreUnavailable.
    """
    each(state, state.store.take_lost_inputs(), partial(remove_inputs, state))


def remove_inputs(state: AppState, folder: str) -> None:
    """Remove the images of a request that came to nothing. Raises StorageUnavailable, StoreUnavailable."""
    state.storage.delete_prefix(inputs_prefix(folder))
    state.store.forget_inputs(folder)


def remove_if_ended(state: AppState, job_id: str) -> None:
    """Remove a discarded job at once if nothing is in the way; the janitor does what is left."""
    try:
        job = state.store.get(job_id)
        if job is not None and job.status in TERMINAL:
            remove(state, job_id)
    except (StorageUnavailable, StoreUnavailable, RecordUnreadable) as error:
        log.warning("%s: will be removed later: %s", job_id, error)
