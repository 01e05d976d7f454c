"""The job store's transitions, one after another and against each other, on a real Valkey."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from adaspa_service.contract.job import (
    Artifact,
    ErrorCode,
    Job,
    JobError,
    JobParams,
    JobStatus,
    Progress,
)
from adaspa_service.contract.settings import Settings
from adaspa_service.contract.store import (
    VIDEO_ID,
    IdempotencyConflict,
    JobCancelled,
    JobStore,
    Lease,
    LeaseLost,
    QueueFull,
    StoreUnavailable,
)
from claiming import claim
from running_gateway import REPORT

VIDEO = {"video": Artifact(key="videos/x/1/video.mp4", content_type="video/mp4", bytes=5, sha256="ab" * 32)}
FAILURE = JobError(code=ErrorCode.generation_failed, message="boom")
Params = Callable[..., JobParams]


def record(store: JobStore, job_id: str) -> Job:
    job = store.get(job_id)
    assert job is not None
    return job


def claimed(store: JobStore, job: Job) -> Lease:
    lease = claim(store, job.id)
    assert lease is not None
    return lease


def let_lease_run_out(store: JobStore, lease: Lease) -> None:
    store.client.zadd("adaspa:leases", {lease.job.id: 0}, xx=True)


def nothing_is_held(store: JobStore) -> bool:
    """No job waits, runs, or holds a lease, and no message is to be sent."""
    keys = ["adaspa:waiting:demo", "adaspa:running:demo", "adaspa:leases", "adaspa:outbox"]
    return not any(store.client.exists(key) for key in keys)


def test_a_created_job_waits_with_all_that_was_asked(store: JobStore, params: Params) -> None:
    asked = params(negative_prompt="grey", sparsity=0.5)
    job = store.create(asked)
    assert VIDEO_ID.fullmatch(job.id)
    assert (job.status, job.params, job.attempt, job.percent) == (JobStatus.queued, asked, 0, 0)
    assert job.progress == Progress(phase="queued", steps=10)
    assert abs(job.created_at - time.time()) < 60
    assert record(store, job.id) == job
    assert store.queue_position(job) == 1


def test_a_job_runs_to_its_end(store: JobStore, params: Params) -> None:
    job = store.create(params())
    lease = claimed(store, job)
    running = record(store, job.id)
    assert (running.status, running.attempt, running.worker) == (JobStatus.in_progress, 1, lease.job.worker)
    assert running.started_at is not None and store.queue_position(job) is None
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
    lease = claimed(store, store.create(params()))
    store.fail(lease, FAILURE)
    failed = record(store, lease.job.id)
    assert (failed.status, failed.error) == (JobStatus.failed, FAILURE)
    assert nothing_is_held(store)


def test_of_many_claims_at_once_one_succeeds(store: JobStore, params: Params) -> None:
    store.create(params())
    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(lambda n: store.claim("demo", f"worker-{n}"), range(32)))
    assert [lease.attempt for lease in leases if lease] == [1]


def test_of_a_completion_and_a_cancel_at_once_one_wins(store: JobStore, params: Params) -> None:
    for _ in range(20):
        lease = claimed(store, store.create(params()))

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


def test_a_queued_job_is_cancelled_at_once(store: JobStore, params: Params) -> None:
    job = store.create(params())
    assert store.request_cancel(job.id) is JobStatus.cancelled
    assert store.claim("demo", "worker-1") is None
    assert record(store, job.id).status is JobStatus.cancelled
    assert nothing_is_held(store)


def test_a_running_job_hears_of_its_cancel_in_every_call(store: JobStore, params: Params) -> None:
    lease = claimed(store, store.create(params()))
    assert store.request_cancel(lease.job.id) is JobStatus.in_progress
    calls: list[Callable[[], Any]] = [
        lambda: store.renew(lease),
        lambda: store.report_progress(lease, Progress()),
        lambda: store.complete(lease, VIDEO, REPORT, {}),
        lambda: store.fail(lease, FAILURE),
        lambda: store.give_back(lease),
    ]
    for call in calls:
        with pytest.raises(JobCancelled):
            call()
    store.release_cancelled(lease)
    cancelled = record(store, lease.job.id)
    assert (cancelled.status, cancelled.artifacts, cancelled.error) == (JobStatus.cancelled, {}, None)
    assert nothing_is_held(store)


def test_a_cancel_of_an_ended_or_unknown_job_changes_nothing(store: JobStore, params: Params) -> None:
    lease = claimed(store, store.create(params()))
    store.complete(lease, VIDEO, REPORT, {})
    before = record(store, lease.job.id)
    assert store.request_cancel(lease.job.id) is JobStatus.completed
    assert record(store, lease.job.id) == before
    assert store.request_cancel("video_unknown") is None
    assert store.get("video_unknown") is None


def test_an_attempt_without_a_cancel_cannot_end_as_cancelled(store: JobStore, params: Params) -> None:
    lease = claimed(store, store.create(params()))
    with pytest.raises(LeaseLost):
        store.release_cancelled(lease)
    assert record(store, lease.job.id).status is JobStatus.in_progress


def test_an_earlier_attempt_is_refused_everything(store: JobStore, params: Params) -> None:
    first = claimed(store, store.create(params()))
    let_lease_run_out(store, first)
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
    for call in [*calls, lambda: store.give_back(first)]:
        with pytest.raises(LeaseLost):
            call()
    after = record(store, first.job.id)
    assert (after.status, after.attempt, after.artifacts) == (JobStatus.in_progress, 2, {})
    store.complete(second, VIDEO, REPORT, {})
    for call in calls:
        with pytest.raises(LeaseLost):
            call()
    assert record(store, first.job.id).status is JobStatus.completed


def test_the_end_of_an_attempt_can_be_told_twice(store: JobStore, params: Params) -> None:
    """An answer may be lost on the way: who repeats the call must not think that the lease was."""
    ends: dict[JobStatus, Callable[[Lease], None]] = {
        JobStatus.completed: lambda lease: store.complete(lease, VIDEO, REPORT, {}),
        JobStatus.failed: lambda lease: store.fail(lease, FAILURE),
        JobStatus.queued: store.give_back,
    }
    for status, end in ends.items():
        lease = claimed(store, store.create(params()))
        end(lease)
        before = record(store, lease.job.id)
        end(lease)
        assert record(store, lease.job.id) == before and before.status is status


def test_a_lease_that_is_renewed_does_not_run_out(valkey: redis.Redis, params: Params) -> None:
    store = JobStore(valkey)
    lease = claimed(store, store.create(params()))
    for _ in range(2):
        let_lease_run_out(store, lease)
        store.renew(lease)
        assert store.requeue_expired() == []


def test_a_lease_runs_out_by_itself(valkey: redis.Redis, params: Params) -> None:
    store = JobStore(valkey, lease_seconds=0.1)
    lease = claimed(store, store.create(params()))
    assert store.requeue_expired() == []
    time.sleep(0.15)
    assert store.requeue_expired() == [lease.job.id]
    assert store.requeue_expired() == []


def test_a_requeued_job_starts_anew_behind_the_others(store: JobStore, params: Params) -> None:
    lease = claimed(store, store.create(params()))
    store.report_progress(lease, Progress(phase="denoising", step=5, steps=10))
    other = store.create(params())
    let_lease_run_out(store, lease)
    store.requeue_expired()
    again = record(store, lease.job.id)
    assert (again.status, again.worker, again.percent, again.lost_attempts) == (JobStatus.queued, None, 0, 1)
    assert again.started_at == lease.job.started_at
    assert [job.id for job in store.take_unsent()] == [again.id]
    assert store.queue_position(other) is not None and store.load("demo").waiting == 2


def test_a_job_that_loses_every_worker_fails(valkey: redis.Redis, params: Params) -> None:
    store = JobStore(valkey, max_attempts=2)
    job = store.create(params())
    for expected in ([job.id], []):
        let_lease_run_out(store, claimed(store, job))
        assert store.requeue_expired() == expected
    failed = record(store, job.id)
    assert failed.error is not None
    assert (failed.status, failed.error.code, failed.lost_attempts) == (JobStatus.failed, ErrorCode.worker_lost, 2)
    assert nothing_is_held(store)


def test_a_lease_without_a_running_job_is_dropped(store: JobStore, params: Params) -> None:
    queued = store.create(params())
    store.client.zadd("adaspa:leases", {"video_unknown": 0, queued.id: 0})
    assert store.requeue_expired() == []
    assert not store.client.exists("adaspa:leases") and store.get("video_unknown") is None
    assert record(store, queued.id) == queued


def test_a_job_that_was_given_back_keeps_its_place_and_its_attempts(valkey: redis.Redis, params: Params) -> None:
    store = JobStore(valkey, max_attempts=1)
    job, other = store.create(params()), store.create(params())
    for attempt in (1, 2, 3):
        lease = claimed(store, job)
        assert lease.attempt == attempt
        store.give_back(lease)
        back = record(store, job.id)
        assert (back.status, back.lost_attempts, store.queue_position(job)) == (JobStatus.queued, 0, 1)
    assert store.queue_position(other) == 2


def test_a_cancelled_job_whose_worker_is_lost_ends_cancelled(store: JobStore, params: Params) -> None:
    lease = claimed(store, store.create(params()))
    store.request_cancel(lease.job.id)
    let_lease_run_out(store, lease)
    assert store.requeue_expired() == []
    assert record(store, lease.job.id).status is JobStatus.cancelled
    assert nothing_is_held(store)


def test_the_queue_cap_holds_for_one_model_under_concurrent_creates(valkey: redis.Redis, params: Params) -> None:
    store = JobStore(valkey, queue_cap=5)

    def create(_: int) -> Job | None:
        try:
            return store.create(params())
        except QueueFull:
            return None

    with ThreadPoolExecutor(8) as pool:
        jobs = [job for job in pool.map(create, range(20)) if job]
    assert len(jobs) == store.load("demo").waiting == len(store.page(limit=100)[0]) == 5
    assert store.create(params(model="other"))
    assert claim(store, jobs[0].id) and store.create(params())


def test_an_idempotency_key_gives_the_first_job_again(store: JobStore, params: Params) -> None:
    first, new = store.admit(params(), ("key", "digest"))
    assert new
    assert store.admit(params(seed=2), ("key", "digest")) == (first, False)
    assert store.load("demo").waiting == 1
    with pytest.raises(IdempotencyConflict):
        store.admit(params(), ("key", "another digest"))
    store.discard(first.id)
    assert store.admit(params(), ("key", "another digest"))[0].id != first.id


def test_a_deletion_leaves_a_key_alone_that_stands_for_other_jobs_by_now(store: JobStore, params: Params) -> None:
    (first, second), _ = store.admit_all([params(), params()], ("key", "digest"))
    store.discard(first.id)
    again, new = store.admit(params(), ("key", "digest"))
    assert new
    store.discard(second.id)
    assert store.admit(params(), ("key", "digest")) == (again, False)


def test_many_creates_with_one_idempotency_key_make_one_job(store: JobStore, params: Params) -> None:
    with ThreadPoolExecutor(8) as pool:
        admitted = list(pool.map(lambda _: store.admit(params(), ("key", "digest")), range(20)))
    assert [new for _, new in admitted].count(True) == 1
    assert len({job.id for job, _ in admitted}) == store.load("demo").waiting == 1


def test_positions_in_the_queue_follow_the_claims(store: JobStore, params: Params) -> None:
    jobs = [store.create(params()) for _ in range(4)]
    assert [store.queue_position(job) for job in jobs] == [1, 2, 3, 4]
    store.request_cancel(jobs[1].id)
    claimed(store, jobs[0])
    assert [store.queue_position(job) for job in jobs] == [None, None, 1, 2]


def test_pages_are_stable_while_jobs_come_and_go(store: JobStore, params: Params) -> None:
    jobs = [store.create(params()).id for _ in range(10)]

    def page(after: str | None, order: Any) -> tuple[list[str], bool]:
        found, more = store.page(after=after, limit=3, order=order)
        return [job.id for job in found], more

    assert page(None, "desc") == (jobs[:6:-1], True)
    newer = store.create(params()).id
    store.discard(jobs[7])  # the cursor itself
    assert page(jobs[7], "desc") == (jobs[6:3:-1], True)
    store.discard(jobs[3])
    assert page(jobs[4], "desc") == (jobs[2::-1], False)
    assert page(jobs[6], "asc") == ([jobs[8], jobs[9], newer], False)
    assert page(newer, "asc") == ([], False)


def test_ids_sort_by_creation_even_when_the_clock_goes_back(store: JobStore, params: Params) -> None:
    first = store.create(params())
    hour_ahead = int(first.id[6:20], 16) + 3_600_000_000
    store.client.set("adaspa:last_id", hour_ahead)
    ids = [store.create(params()).id for _ in range(3)]
    assert ids == sorted(ids) and int(ids[0][6:20], 16) == hour_ahead + 1
    assert [job.id for job in store.page(order="asc")[0]] == [first.id, *ids]


def test_a_discarded_job_is_hidden_at_once_and_purged_when_it_has_stopped(store: JobStore, params: Params) -> None:
    lease = claimed(store, store.create(params()))
    assert store.discard(lease.job.id) and not store.discard(lease.job.id)
    assert store.page() == ([], False)
    assert record(store, lease.job.id).discarded
    assert store.take_purgeable() == [] and not store.purge(lease.job.id)
    with pytest.raises(JobCancelled):
        store.renew(lease)
    store.release_cancelled(lease)
    assert store.take_purgeable() == [lease.job.id]
    assert store.take_purgeable() == [], "another janitor must not work on the same job"
    assert store.purge(lease.job.id)
    assert [key for key in store.client.keys("adaspa:*") if lease.job.id.encode() in key] == []
    assert store.client.zcard("adaspa:purge") == store.client.zcard("adaspa:expiry") == 0


def test_purging_leaves_a_job_that_nobody_deleted(store: JobStore, params: Params) -> None:
    lease = claimed(store, store.create(params()))
    store.complete(lease, VIDEO, REPORT, {})
    assert not store.purge(lease.job.id)
    assert record(store, lease.job.id).status is JobStatus.completed


def test_an_ended_job_expires(valkey: redis.Redis, params: Params) -> None:
    store = JobStore(valkey, result_ttl_seconds=0.05)
    done, queued = store.create(params()), store.create(params())
    store.fail(claimed(store, done), FAILURE)
    time.sleep(0.1)
    assert store.expire() == 1 and store.expire() == 0
    assert store.take_purgeable() == [done.id]
    assert [job.id for job in store.page()[0]] == [queued.id]


def test_a_job_is_sent_by_the_janitor_only_when_nobody_else_has(valkey: redis.Redis, params: Params) -> None:
    prompt, late = JobStore(valkey), JobStore(valkey, send_seconds=0)
    sent, unsent, being_sent = late.create(params()), late.create(params()), prompt.create(params())
    prompt.mark_sent(sent.id)
    assert [job.id for job in prompt.take_unsent()] == [unsent.id]
    assert prompt.take_unsent() == [], "another janitor must not send the same message"
    prompt.mark_sent(unsent.id)
    assert valkey.zrange("adaspa:outbox", 0, -1) == [being_sent.id.encode()]


def test_a_message_that_vanished_from_the_queue_is_sent_again(store: JobStore, params: Params) -> None:
    vanished, queued = store.create(params()), store.create(params())
    for job in (vanished, queued):
        store.mark_sent(job.id)
    store.client.lpush("generate.demo", "the other message")
    assert store.resend_lost("demo") == 0, "it may be on its way to a worker"
    store.client.hset(f"adaspa:job:{vanished.id}", "sent_at", 1)
    assert store.resend_lost("demo") == 1
    assert [job.id for job in store.take_unsent()] == [vanished.id]
    assert store.resend_lost("demo") == 0


def test_every_transition_and_step_is_an_event(store: JobStore, params: Params) -> None:
    lease = claimed(store, store.create(params()))
    store.report_progress(lease, Progress(phase="denoising", step=1, steps=10))
    store.renew(lease)
    store.complete(lease, VIDEO, REPORT, {})
    events: Any = store.client.xrange(f"adaspa:events:{lease.job.id}")
    assert [fields[b"type"] for _, fields in events] == [b"queued", b"in_progress", b"progress", b"completed"]


def test_a_redis_that_is_away_is_said_to_be(tmp_path: Any, params: Params) -> None:
    store = JobStore.from_settings(Settings(redis_url=f"unix://{tmp_path}/nobody.sock"))
    for call in (store.ping, store.page, store.requeue_expired, lambda: store.create(params())):
        with pytest.raises(StoreUnavailable):
            call()


def test_a_redis_that_refuses_writes_counts_as_away(valkey: redis.Redis, store: JobStore, params: Params) -> None:
    valkey.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(StoreUnavailable):
            store.create(params())
    finally:
        valkey.config_set("min-replicas-to-write", 0)
    assert store.create(params()).status == "queued"


def test_the_room_that_is_left_is_told_unless_the_user_may_not_ask(store: JobStore, valkey_socket: Path) -> None:
    room = store.room()
    assert room is not None and room.memory_bytes > 0 and 0 < room.connections < room.connection_limit
    store.client.acl_setuser("limited", enabled=True, nopass=True, keys=["*"], categories=["+@all", "-@dangerous"])
    with redis.Redis(unix_socket_path=str(valkey_socket), username="limited", password="any") as client:
        assert JobStore(client).room() is None
    store.client.acl_deluser("limited")
