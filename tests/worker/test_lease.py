"""What a lease's keeper tells the store, and how often it writes for that."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from adaspa_jobs.job import Job, JobParams, Progress
from adaspa_jobs.store import JobCancelled, JobStore, Lease
from adaspa_worker.lease import LeaseKeeper
from admitting import create
from claiming import claimed, record
from virtual_time import Seconds
from waiting import until

Params = Callable[..., JobParams]
LONG = 3600.0


@pytest.fixture
def lease(store: JobStore, params: Params) -> Lease:
    return claimed(store, create(store, params()))


@contextmanager
def kept(store: JobStore, lease: Lease, every: float = LONG, tell_every: float = LONG) -> Iterator[LeaseKeeper]:
    """A keeper that nothing stops."""
    keeper = LeaseKeeper(
        store,
        lease,
        lambda: False,
        every=every,
        limit=LONG,
        unwind=LONG,
        abandon=lambda reason: None,
        tell_every=tell_every,
    )
    with keeper:
        yield keeper


def at(step: int) -> Progress:
    return Progress(phase="denoising", step=step, steps=9)


def told(store: JobStore, job: Job) -> list[int]:
    """The steps that those who follow the job have heard of."""
    events: Any = store.client.xrange(f"adaspa:events:{job.id}")
    return [json.loads(event[b"progress"])["step"] for _, event in events if event[b"type"] == b"progress"]


def writes(client: redis.Redis) -> int:
    """Changes that were made so far."""
    found: Any = client.info("persistence")
    return int(found["rdb_changes_since_last_save"])


def test_quick_steps_are_told_together_and_each_is_an_event(
    store: JobStore, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, report = list[int](), store.report_progress
    monkeypatch.setattr(store, "report_progress", lambda *given: calls.append(len(given)) or report(*given))
    with kept(store, lease) as keeper:
        for step in range(1, 8):
            keeper.report(at(step))
        assert told(store, lease.job) == [1], "the first at once"
    assert told(store, lease.job) == [1, 2, 3, 4, 5, 6, 7], "the others before the attempt ends"
    assert record(store, lease.job.id).progress.step == 7
    assert len(calls) == 2


def test_the_last_step_before_a_long_phase_is_told_without_another(store: JobStore, lease: Lease) -> None:
    with kept(store, lease, tell_every=0.1) as keeper:
        for step in (1, 2, 3):
            keeper.report(at(step))
        until(lambda: told(store, lease.job) == [1, 2, 3], "the steps are told")


def test_a_preview_comes_after_the_steps_before_it(store: JobStore, lease: Lease) -> None:
    with kept(store, lease) as keeper:
        for step in (1, 2):
            keeper.report(at(step))
        keeper.report_preview(at(2).model_copy(update={"preview_step": 2}), b"RIFF")
        assert told(store, lease.job) == [1, 2]
        assert record(store, lease.job.id).progress.preview_step == 2


def test_whoever_tells_of_steps_hears_of_a_cancel(store: JobStore, lease: Lease) -> None:
    with kept(store, lease, tell_every=0.1) as keeper:
        keeper.report(at(1))
        keeper.report(at(2))
        store.request_cancel(lease.job.id)

        def stops() -> bool:
            try:
                keeper.report(at(3))
            except JobCancelled:
                return True
            return False

        until(stops, "the job hears that it is cancelled")


def test_a_cancel_is_heard_without_a_write(store: JobStore, lease: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = list[Lease]()
    hear = store.hear
    monkeypatch.setattr(store, "hear", lambda lease: heard.append(lease) or hear(lease))
    store.lease_seconds = LONG
    with kept(store, lease, every=0.02) as keeper:
        before = writes(store.client)
        until(lambda: len(heard) >= 5, "the keeper has asked some times")
        assert writes(store.client) == before
        store.request_cancel(lease.job.id)

        def stops() -> bool:
            try:
                keeper.check()
            except JobCancelled:
                return True
            return False

        until(stops, "the job hears that it is cancelled")


def test_a_lease_is_renewed_long_before_it_ends(
    valkey: redis.Redis, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on by a twentieth of a second each time that the keeper looks at it."""
    store = JobStore(valkey, lease_seconds=10)
    lease = claimed(store, create(store, params()))
    clock, renewed, renew = Seconds(), list[float](), store.renew

    def looked_at() -> float:
        clock.sleep(0.05)
        return clock.now

    def noted(lease: Lease) -> None:
        renew(lease)
        renewed.append(clock.now)

    def ends() -> float:
        score: Any = valkey.zscore("adaspa:leases", lease.job.id)
        return float(score)

    monkeypatch.setattr("adaspa_worker.lease.time", SimpleNamespace(monotonic=looked_at))
    monkeypatch.setattr(store, "renew", noted)
    first, began = ends(), clock.now
    with kept(store, lease, every=0.02):
        until(lambda: renewed, "the lease is renewed")
    assert ends() > first and 2 <= renewed[0] - began < 3, "when a fifth of it was over"
