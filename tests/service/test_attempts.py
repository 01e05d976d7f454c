"""Attempts at a job: leases, their ends one after another and against each other, on a real Valkey."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from adaspa_api.words import ErrorCode, JobStatus
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.fits import Fits
from adaspa_jobs.job import JobParams, Progress
from adaspa_jobs.store import (
    JobCancelled,
    JobStore,
    Lease,
    LeaseLost,
)
from admitting import create
from claiming import FAILURE, VIDEO, claimed, lose_lease, nothing_is_held, record
from faults import let_time_pass, remembered
from running_gateway import REPORT

Params = Callable[..., JobParams]


def test_a_job_runs_to_its_end(store: JobStore, params: Params) -> None:
    job = create(store, params())
    lease = claimed(store, job)
    running = record(store, job.id)
    assert (running.status, running.attempt, running.worker) == (JobStatus.in_progress, 1, lease.job.worker)
    assert running.started_at is not None and store.queue_position(job) is None
    assert running.progress.phase == "loading", "as soon as a worker has it"
    progress = Progress(phase="denoising", step=5, steps=10, step_kind="sparse", eta_seconds=2.5)
    store.report_progress(lease, progress)
    running = record(store, job.id)
    assert running.progress == progress and 0 < running.percent < 100
    store.complete(lease, VIDEO, REPORT, {"denoising": 1.5})
    done = record(store, job.id)
    assert (done.status, done.percent) == (JobStatus.completed, 100)
    assert (done.artifacts, done.report, done.timings) == (VIDEO, REPORT, {"denoising": 1.5})
    assert done.completed_at is not None and done.expires_at == done.completed_at + 7 * 86400
    assert nothing_is_held(store)
    load = store.load("demo")
    assert (load.waiting, load.running) == (0, 0) and load.pace is not None


def test_a_failed_job_says_why(store: JobStore, params: Params) -> None:
    lease = claimed(store, create(store, params()))
    store.fail(lease, FAILURE)
    failed = record(store, lease.job.id)
    assert (failed.status, failed.error) == (JobStatus.failed, FAILURE)
    assert nothing_is_held(store)


def test_of_many_claims_at_once_one_succeeds(store: JobStore, params: Params) -> None:
    create(store, params())
    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(lambda n: store.claim("demo", f"worker-{n}"), range(32)))
    assert [lease.attempt for lease in leases if lease] == [1]


def test_of_a_completion_and_a_cancel_at_once_one_wins(store: JobStore, params: Params) -> None:
    for _ in range(20):
        lease = claimed(store, create(store, params()))

        def complete(lease: Lease = lease) -> bool:
            try:
                store.complete(lease, VIDEO, REPORT, {})
                return True
            except JobCancelled:
                store.release_cancelled(lease)
                return False

        with ThreadPoolExecutor(2) as pool:
            completed = pool.submit(complete)
            pool.submit(store.request_cancel, lease.job.id).result()
        status = record(store, lease.job.id).status
        assert status is (JobStatus.completed if completed.result() else JobStatus.cancelled)
        assert nothing_is_held(store)


def test_a_running_job_hears_of_its_cancel_in_every_call(store: JobStore, params: Params) -> None:
    lease = claimed(store, create(store, params()))
    assert store.request_cancel(lease.job.id) is JobStatus.in_progress
    calls: list[Callable[[], Any]] = [
        lambda: store.renew(lease),
        lambda: store.report_progress(lease, Progress()),
        lambda: store.complete(lease, VIDEO, REPORT, {}),
        lambda: store.fail(lease, FAILURE),
        lambda: store.release(lease),
    ]
    for call in calls:
        with pytest.raises(JobCancelled):
            call()
    store.release_cancelled(lease)
    cancelled = record(store, lease.job.id)
    assert (cancelled.status, cancelled.artifacts, cancelled.error) == (JobStatus.cancelled, {}, None)
    assert nothing_is_held(store)


def test_an_attempt_without_a_cancel_cannot_end_as_cancelled(store: JobStore, params: Params) -> None:
    lease = claimed(store, create(store, params()))
    with pytest.raises(LeaseLost):
        store.release_cancelled(lease)
    assert record(store, lease.job.id).status is JobStatus.in_progress


def test_an_earlier_attempt_is_refused_everything(store: JobStore, params: Params) -> None:
    first = claimed(store, create(store, params()))
    lose_lease(store, first.job.id)
    assert store.requeue_expired() == [first.job.id]
    calls: list[Callable[[], Any]] = [
        lambda: store.renew(first),
        lambda: store.report_progress(first, Progress(phase="denoising", step=9, steps=10)),
        lambda: store.complete(first, VIDEO, REPORT, {}),
        lambda: store.fail(first, FAILURE),
        lambda: store.release_cancelled(first),
    ]
    second = claimed(store, first.job)
    assert second.attempt == 2
    for call in [*calls, lambda: store.release(first)]:
        with pytest.raises(LeaseLost):
            call()
    after = record(store, first.job.id)
    assert (after.status, after.attempt, after.artifacts) == (JobStatus.in_progress, 2, {})
    store.complete(second, VIDEO, REPORT, {})
    for call in calls:
        with pytest.raises(LeaseLost):
            call()
    assert record(store, first.job.id).status is JobStatus.completed


def test_an_attempt_that_redis_forgot_is_refused_though_the_next_has_its_number(
    store: JobStore, params: Params
) -> None:
    job = create(store, params())
    forget = remembered(store.client)
    first = claimed(store, job)
    forget()
    second = claimed(store, job)
    assert first.attempt == second.attempt == 1
    calls: list[Callable[[], Any]] = [
        lambda: store.renew(first),
        lambda: store.report_progress(first, Progress(phase="denoising", step=9, steps=10)),
        lambda: store.report_preview(first, Progress(preview_step=9), b"RIFF"),
        lambda: store.complete(first, VIDEO, REPORT, {}),
        lambda: store.fail(first, FAILURE),
        lambda: store.requeue_after_worker_error(first, FAILURE),
        lambda: store.release_cancelled(first),
        lambda: store.release(first),
    ]
    for call in calls:
        with pytest.raises(LeaseLost):
            call()
    store.complete(second, VIDEO, REPORT, {})
    with pytest.raises(LeaseLost):
        store.complete(first, {}, REPORT, {})
    assert record(store, job.id).artifacts == VIDEO


def test_the_end_of_an_attempt_can_be_told_twice(store: JobStore, params: Params) -> None:
    """An answer may be lost on the way: who repeats the call must not think that the lease was."""
    ends: dict[JobStatus, Callable[[Lease], None]] = {
        JobStatus.completed: lambda lease: store.complete(lease, VIDEO, REPORT, {}),
        JobStatus.failed: lambda lease: store.fail(lease, FAILURE),
        JobStatus.queued: store.release,
    }
    for status, end in ends.items():
        lease = claimed(store, create(store, params()))
        end(lease)
        before = record(store, lease.job.id)
        end(lease)
        assert record(store, lease.job.id) == before and before.status is status


def test_a_lease_that_is_renewed_does_not_run_out(valkey: redis.Redis, params: Params) -> None:
    store = JobStore(valkey)
    lease = claimed(store, create(store, params()))
    for _ in range(2):
        lose_lease(store, lease.job.id)
        store.renew(lease)
        assert store.requeue_expired() == []


def test_a_video_that_is_done_counts_though_the_lease_ran_out_unless_another_attempt_has_begun(
    store: JobStore, params: Params
) -> None:
    first, other = claimed(store, create(store, params())), create(store, params())
    lose_lease(store, first.job.id)
    assert store.requeue_expired() == [first.job.id]
    with pytest.raises(LeaseLost):
        store.renew(first)
    for _ in range(2):  # the answer may be lost
        store.complete(first, VIDEO, REPORT, {})
    done = record(store, first.job.id)
    assert (done.status, done.artifacts, done.attempt) == (JobStatus.completed, VIDEO, 1)
    assert store.queue_position(other) == 1
    assert store.request_cancel(other.id) and nothing_is_held(store)


def test_a_lease_runs_out_by_itself(valkey: redis.Redis, params: Params) -> None:
    store = JobStore(valkey, lease_seconds=600)
    lease = claimed(store, create(store, params()))
    let_time_pass(valkey, 500)
    assert store.requeue_expired() == []
    let_time_pass(valkey, 101)
    assert store.requeue_expired() == [lease.job.id]
    assert store.requeue_expired() == []


def test_a_requeued_job_starts_anew_behind_the_others(store: JobStore, params: Params) -> None:
    lease = claimed(store, create(store, params()))
    store.report_progress(lease, Progress(phase="denoising", step=5, steps=10))
    other = create(store, params())
    lose_lease(store, lease.job.id)
    store.requeue_expired()
    again = record(store, lease.job.id)
    assert (again.status, again.worker, again.percent, again.lost_attempts) == (JobStatus.queued, None, 0, 1)
    assert again.started_at == lease.job.started_at
    assert store.queue_position(other) is not None and store.load("demo").waiting == 2


def test_a_job_that_loses_every_worker_fails(valkey: redis.Redis, params: Params) -> None:
    store = JobStore(valkey, max_attempts=2)
    job = create(store, params())
    for expected in ([job.id], []):
        lose_lease(store, claimed(store, job).job.id)
        assert store.requeue_expired() == expected
    failed = record(store, job.id)
    assert failed.error is not None
    assert (failed.status, failed.error.code, failed.lost_attempts) == (JobStatus.failed, ErrorCode.worker_lost, 2)
    assert failed.error.message == "The job lost its worker 2 times."
    assert nothing_is_held(store)


def test_a_lease_without_a_running_job_is_dropped(store: JobStore, params: Params) -> None:
    queued = create(store, params())
    store.client.zadd("adaspa:leases", {"video_unknown": 0, queued.id: 0})
    assert store.requeue_expired() == []
    assert not store.client.exists("adaspa:leases") and store.get("video_unknown") is None
    assert record(store, queued.id) == queued


def test_a_job_that_was_released_keeps_its_place_and_its_attempts(valkey: redis.Redis, params: Params) -> None:
    store = JobStore(valkey, max_attempts=1)
    job, other = create(store, params()), create(store, params())
    for attempt in (1, 2, 3):
        lease = claimed(store, job)
        assert lease.attempt == attempt
        store.release(lease)
        back = record(store, job.id)
        assert (back.status, back.lost_attempts, store.queue_position(job)) == (JobStatus.queued, 0, 1)
    assert store.queue_position(other) == 2


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_cancelled_job_whose_worker_is_lost_ends_cancelled(
    valkey: redis.Redis, params: Params, attempts: int
) -> None:
    """Also where it was the last worker that it may lose."""
    store = JobStore(valkey, max_attempts=attempts)
    lease = claimed(store, create(store, params()))
    store.request_cancel(lease.job.id)
    lose_lease(store, lease.job.id)
    assert store.requeue_expired() == []
    assert record(store, lease.job.id).status is JobStatus.cancelled
    assert nothing_is_held(store)


def test_every_transition_and_step_is_an_event(store: JobStore, params: Params) -> None:
    lease = claimed(store, create(store, params()))
    store.report_progress(lease, Progress(phase="denoising", step=1, steps=10))
    store.renew(lease)
    store.complete(lease, VIDEO, REPORT, {})
    events: Any = store.client.xrange(f"adaspa:events:{lease.job.id}")
    assert [fields[b"type"] for _, fields in events] == [b"queued", b"in_progress", b"progress", b"completed"]


def test_of_a_job_of_very_many_steps_the_latest_thousand_events_are_kept(store: JobStore, params: Params) -> None:
    lease = claimed(store, create(store, params(steps=1500)))
    for step in range(0, 1500, 100):
        store.report_progress(lease, *[Progress(phase="denoising", step=step + n, steps=1500) for n in range(1, 101)])
    events: Any = store.client.xrange(f"adaspa:events:{lease.job.id}")
    steps = [json.loads(fields[b"progress"])["step"] for _, fields in events]
    assert 1000 <= len(steps) < 1200 and steps == [*range(1501 - len(steps), 1501)]


def test_a_job_that_no_worker_can_read_is_given_up_and_holds_none(store: JobStore, params: Params) -> None:
    broken = create(store, params())
    asked = json.loads(store.client.hget(f"adaspa:job:{broken.id}", "params"))  # type: ignore[arg-type]
    store.client.hset(f"adaspa:job:{broken.id}", "params", json.dumps(asked | {"fps": "many"}))
    for attempt in (1, 2, 3):
        assert store.claim("demo", f"worker-{attempt}") is None
        found = store.client.hmget(f"adaspa:job:{broken.id}", "status", "worker_errors")
        assert found == [b"failed" if attempt == 3 else b"queued", str(attempt).encode()]
        assert store.client.zcard("adaspa:leases") == 0
    error = json.loads(store.client.hget(f"adaspa:job:{broken.id}", "error"))  # type: ignore[arg-type]
    assert error["code"] == "record_damaged"


@pytest.mark.parametrize(
    ("quality", "size", "frames", "fits"),
    [
        (None, (64, 64), 9, True),
        (None, (64, 64), 10, False),
        ("fast", (64, 64), 5, True),
        ("fast", (64, 64), 9, False),
        ("exact", (64, 64), 99, True),  # a preset that the worker's catalog lacks
        (None, (96, 64), 99, True),  # and such a size
        (None, (32, 32), 1, False),
    ],
)
def test_what_fits_into_a_worker_goes_by_preset_size_and_frames(
    params: Params, quality: str | None, size: tuple[int, int], frames: int, fits: bool
) -> None:
    told = Fits(limit=9, frames={"": {"64x64": 9, "32x32": 0}, "fast": {"64x64": 5}})
    asked = params(quality=quality, width=size[0], height=size[1], num_frames=frames)
    assert told.takes(asked) == fits


@pytest.mark.parametrize(
    ("frames", "missing"),
    [
        ({"": {"64x64": 9}, "fast": {"64x64": 9}}, ""),
        ({"": {"64x64": 5}, "fast": {"64x64": 9}}, "64x64 with 9 frames (default)"),
        ({"": {"64x64": 5}, "fast": {"64x64": 5}}, "64x64 with 9 frames"),
        ({"": {"64x64": 0}, "fast": {"64x64": 5}}, "64x64 with 5, 9 frames (default); 64x64 with 9 frames (fast)"),
        ({"": {"64x64": 9, "96x64": 0}, "fast": {"64x64": 9, "96x64": 0}}, "96x64 with 5, 9 frames"),
    ],
)
def test_what_does_not_fit_is_named_by_size_frames_and_preset(frames: dict[str, Any], missing: str) -> None:
    spec = Catalog.load(None).default.model_copy(update={"frames": (9, 5)})
    assert Fits(limit=1, frames=frames).missing(spec) == missing
