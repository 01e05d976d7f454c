"""The job store for owners and janitors: admission, pages, deletion, bells; on a real Valkey."""

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest
import redis
from adaspa_api.words import JobStatus, Priority
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.job import Job, JobParams, Progress
from adaspa_jobs.settings import Settings
from adaspa_jobs.store import (
    VIDEO_ID,
    IdempotencyConflict,
    JobCancelled,
    JobStore,
    Lease,
    QueueFull,
    StoreUnavailable,
)
from admitting import admit, create
from claiming import FAILURE, VIDEO, claim, claimed, lose_lease, nothing_is_held, record
from faults import let_time_pass
from running_gateway import REPORT
from waiting import until

Params = Callable[..., JobParams]
DAY = 86400.0


def test_a_created_job_waits_with_all_that_was_asked(store: JobStore, params: Params) -> None:
    asked = params(negative_prompt="grey", sparsity=0.5)
    job = create(store, asked)
    assert VIDEO_ID.fullmatch(job.id)
    assert (job.status, job.params, job.attempt, job.percent) == (JobStatus.queued, asked, 0, 0)
    assert job.progress == Progress(phase="queued", steps=10)
    assert abs(job.created_at - time.time()) < 60
    assert record(store, job.id) == job
    assert store.queue_position(job) == 1


def test_a_queued_job_is_cancelled_at_once(store: JobStore, params: Params) -> None:
    job = create(store, params())
    assert store.request_cancel(job.id) is JobStatus.cancelled
    assert store.claim("demo", "worker-1") is None
    assert record(store, job.id).status is JobStatus.cancelled
    assert nothing_is_held(store)


def test_a_cancel_of_an_ended_or_unknown_job_changes_nothing(store: JobStore, params: Params) -> None:
    lease = claimed(store, create(store, params()))
    store.complete(lease, VIDEO, REPORT, {})
    before = record(store, lease.job.id)
    assert store.request_cancel(lease.job.id) is JobStatus.completed
    assert record(store, lease.job.id) == before
    assert store.request_cancel("video_unknown") is None
    assert store.get("video_unknown") is None


def test_the_queue_cap_holds_for_one_model_under_concurrent_creates(valkey: redis.Redis, params: Params) -> None:
    store = JobStore(valkey, queue_cap=5)

    def another(_: int) -> Job | None:
        try:
            return create(store, params())
        except QueueFull:
            return None

    with ThreadPoolExecutor(8) as pool:
        jobs = [job for job in pool.map(another, range(20)) if job]
    assert len(jobs) == store.load("demo").waiting == len(store.page(limit=100)[0]) == 5
    assert create(store, params(model="other"))
    assert claim(store, jobs[0].id) and create(store, params())


def test_an_idempotency_key_gives_the_first_job_again(store: JobStore, params: Params) -> None:
    first, new = admit(store, params(), ("key", "digest"))
    assert new
    assert admit(store, params(seed=2), ("key", "digest")) == (first, False)
    assert store.load("demo").waiting == 1
    for again in (lambda: admit(store, params(), ("key", "other")), lambda: store.repeated(("key", "other"))):
        with pytest.raises(IdempotencyConflict):
            again()
    store.discard(first.id)
    assert admit(store, params(), ("key", "another digest"))[0].id != first.id


def test_a_deletion_leaves_a_key_alone_that_stands_for_other_jobs_by_now(store: JobStore, params: Params) -> None:
    first, second = store.admit_all([params(), params()], ("key", "digest")).jobs
    store.discard(first.id)
    again, new = admit(store, params(), ("key", "digest"))
    assert new
    store.discard(second.id)
    assert admit(store, params(), ("key", "digest")) == (again, False)


@pytest.mark.parametrize("deleted", [*itertools.product((False, True), repeat=3)])
def test_a_repeated_request_is_answered_with_what_is_left_of_its_jobs(
    store: JobStore, params: Params, deleted: tuple[bool, ...]
) -> None:
    """Its key is forgotten with the first of them."""
    made = store.admit_all([params()] * 3, ("key", "digest")).jobs
    for job in itertools.compress(made, deleted):
        store.discard(job.id)
    left = [job for job, gone in zip(made, deleted, strict=True) if not gone]
    assert store.repeated(("key", "digest")) == (None if deleted[0] else left)
    again = store.admit_all([params()] * 3, ("key", "digest"))
    assert again.new == deleted[0] and (again.new or again.jobs == left)
    assert len(store.page()[0]) == len(left) + 3 * deleted[0]


def test_many_creates_with_one_idempotency_key_make_one_job(store: JobStore, params: Params) -> None:
    with ThreadPoolExecutor(8) as pool:
        admitted = list(pool.map(lambda _: admit(store, params(), ("key", "digest")), range(20)))
    assert [new for _, new in admitted].count(True) == 1
    assert len({job.id for job, _ in admitted}) == store.load("demo").waiting == 1


def test_positions_in_the_queue_follow_the_claims(store: JobStore, params: Params) -> None:
    jobs = [create(store, params()) for _ in range(4)]
    assert [store.queue_position(job) for job in jobs] == [1, 2, 3, 4]
    store.request_cancel(jobs[1].id)
    claimed(store, jobs[0])
    assert [store.queue_position(job) for job in jobs] == [None, None, 1, 2]


def test_pages_are_stable_while_jobs_come_and_go(store: JobStore, params: Params) -> None:
    jobs = [create(store, params()).id for _ in range(10)]

    def page(after: str | None, order: Any) -> tuple[list[str], str | None]:
        found, cursor = store.page(after=after, limit=3, order=order)
        return [job.id for job in found], cursor

    assert page(None, "desc") == (jobs[:6:-1], jobs[7])
    newer = create(store, params()).id
    store.discard(jobs[7])  # the cursor itself
    assert page(jobs[7], "desc") == (jobs[6:3:-1], jobs[4])
    store.discard(jobs[3])
    assert page(jobs[4], "desc") == (jobs[2::-1], None)
    assert page(jobs[6], "asc") == ([jobs[8], jobs[9], newer], None)
    assert page(newer, "asc") == ([], None)


def test_ids_sort_by_creation_even_when_the_clock_goes_back(store: JobStore, params: Params) -> None:
    first = create(store, params())
    hour_ahead = int(first.id[6:20], 16) + 3_600_000_000
    store.client.set("adaspa:last_id", hour_ahead)
    ids = [create(store, params()).id for _ in range(3)]
    assert ids == sorted(ids) and int(ids[0][6:20], 16) == hour_ahead + 1
    assert [job.id for job in store.page(order="asc")[0]] == [first.id, *ids]


def test_a_discarded_job_is_hidden_at_once_and_purged_when_it_has_stopped(store: JobStore, params: Params) -> None:
    lease = claimed(store, create(store, params()))
    assert store.discard(lease.job.id) and not store.discard(lease.job.id)
    assert store.page() == ([], None)
    assert record(store, lease.job.id).discarded
    assert store.take_purgeable() == [] and not store.purge(lease.job.id)
    with pytest.raises(JobCancelled):
        store.renew(lease)
    store.release_cancelled(lease)
    assert store.take_purgeable() == [lease.job.id]
    assert store.take_purgeable() == [], "another janitor must not work on the same job"
    assert store.purge(lease.job.id)
    left = [key for key in store.client.keys("adaspa:*") if lease.job.id.encode() in key]
    assert left == [f"adaspa:events:{lease.job.id}".encode()] and 0 < store.client.ttl(left[0]) <= 10
    assert store.client.zcard("adaspa:purge") == store.client.zcard("adaspa:expiry") == 0


def test_purging_leaves_a_job_that_nobody_deleted(store: JobStore, params: Params) -> None:
    lease = claimed(store, create(store, params()))
    store.complete(lease, VIDEO, REPORT, {})
    assert not store.purge(lease.job.id)
    assert record(store, lease.job.id).status is JobStatus.completed


def test_an_ended_job_expires(valkey: redis.Redis, params: Params) -> None:
    store = JobStore(valkey, result_ttl_seconds=0.05)
    done, queued = create(store, params()), create(store, params())
    store.fail(claimed(store, done), FAILURE)
    time.sleep(0.1)
    assert store.expire() == 1 and store.expire() == 0
    assert store.take_purgeable() == [done.id]
    assert [job.id for job in store.page()[0]] == [queued.id]


def claimed_all(store: JobStore, jobs: list[Job]) -> list[Lease]:
    return [lease for n, _ in enumerate(jobs) if (lease := store.claim("demo", f"w{n}"))]


def lost_all(store: JobStore, jobs: list[Job]) -> None:
    for lease in claimed_all(store, jobs):
        lose_lease(store, lease.job.id)


def failed_all(store: JobStore, jobs: list[Job]) -> None:
    for lease in claimed_all(store, jobs):
        store.fail(lease, FAILURE)


def ended_all(store: JobStore, jobs: list[Job]) -> None:
    for job in jobs:
        store.request_cancel(job.id)
    let_time_pass(store.client, 8 * DAY)


def deleted_all(store: JobStore, jobs: list[Job]) -> None:
    for job in jobs:
        store.discard(job.id)


CHORES: dict[str, Callable[[JobStore, list[Job]], Any]] = {
    "requeue_expired": lost_all,
    "time_out": lambda store, _: let_time_pass(store.client, 2 * DAY),
    "expire": ended_all,
    "take_purgeable": deleted_all,
    "take_untidy": failed_all,
}
"""What janitors do for many jobs at a time, and what makes them due."""


@pytest.mark.parametrize("chore", CHORES)
def test_janitors_take_a_hundred_jobs_at_a_time_and_leave_none(valkey: redis.Redis, params: Params, chore: str) -> None:
    """So that no script keeps all others waiting for long."""
    store = JobStore(valkey, unserved_seconds=10 * DAY)
    CHORES[chore](store, store.admit_all([params()] * 130).jobs)
    taken = [getattr(store, chore)() for _ in range(3)]
    assert [each if isinstance(each, int) else len(set(each)) for each in taken] == [100, 30, 0]


def test_images_without_jobs_are_taken_a_hundred_at_a_time_until_they_are_forgotten(store: JobStore) -> None:
    folders = {f"{number:032x}" for number in range(130)}
    for folder in folders:
        store.await_inputs(folder)
    assert store.take_lost_inputs() == [] and store.inputs_in_use([*folders]) == folders
    store.client.zadd("adaspa:awaited_inputs", dict.fromkeys(folders, 0))
    found = set[str]()
    for count in (100, 30, 0):
        lost = store.take_lost_inputs()
        assert len(lost) == count
        again = store.take_lost_inputs()
        assert again[:count] == lost and len(again) <= 100, "until they are forgotten"
        for folder in lost:
            store.forget_inputs(folder)
        found |= {*lost}
    assert found == folders and store.inputs_in_use([*folders]) == set()


def test_a_bell_is_rung_for_each_job_unless_enough_are_there(store: JobStore, params: Params) -> None:
    def bells(count: int) -> int:
        return store.admit_all([params()] * count).bells

    def rung(count: int) -> None:
        store.client.rpush("generate.demo", *["a bell"] * count)

    assert (bells(1), bells(2)) == (1, 2)
    rung(3)
    assert bells(1) == 1
    rung(3)
    assert bells(1) == 0, "two are too many"
    for job in store.page(limit=100)[0]:
        store.discard(job.id)
    assert bells(5) == 0 and bells(3) == 2


def test_a_worker_learns_how_many_bells_its_queues_lack(store: JobStore, params: Params) -> None:
    demo = Catalog.load(None).default
    for number in range(3):
        admit(store, params(), priority=Priority.bulk if number else Priority.interactive)

    def told() -> bool:
        """What two workers are told within a second, in which one rings; a busy machine may need several tries."""
        store.client.delete("adaspa:rung")
        began = time.monotonic()
        assert store.announce(demo, "worker-1", [Priority.bulk]) == {Priority.bulk: 2}
        bells = store.announce(demo, "worker-2")
        soon = time.monotonic() - began < 0.9
        assert not soon or bells == {Priority.interactive: 1, Priority.bulk: 0}, "one worker rings at a time"
        return soon

    until(told, "the second comes soon after the first")
    store.client.delete("adaspa:rung")  # that was long ago, and nobody came to it
    store.client.rpush("generate.demo", "a bell")
    assert store.announce(demo, "worker-2") == {Priority.interactive: 0, Priority.bulk: 2}


def test_no_worker_is_to_ring_for_long(store: JobStore, params: Params) -> None:
    demo, rung = Catalog.load(None).default, []
    store.admit_all([params()] * 230, priority=Priority.bulk)
    for worker in range(4):
        bells = store.announce(demo, f"worker-{worker}")
        for _ in range(bells[Priority.bulk]):
            store.client.rpush("generate.demo:bulk", "a bell")
        store.client.delete("adaspa:rung")  # a while later
        rung.append(bells[Priority.bulk])
    assert rung == [100, 100, 30, 0]


def test_a_store_keeps_to_every_limit_that_is_set(valkey: redis.Redis, redis_url: str) -> None:
    limits: dict[str, Any] = {
        **{"lease_seconds": 11.0, "max_attempts": 7, "queue_cap": 13, "result_ttl_seconds": 3700.0},
        **{"queue_seconds": 170.0, "unserved_seconds": 190.0, "bulk_share": 0.35},
    }
    made = JobStore.from_settings(Settings(redis_url=redis_url, **limits))
    alike = JobStore(valkey, **limits)
    differing = {"client", "file", "_scripts"}
    told = [{k: v for k, v in vars(one).items() if k not in differing} for one in (made, alike, JobStore(valkey))]
    assert told[0] == told[1] and told[0] != told[2]
    assert made._scripts.command("look", id="x")[3] == alike._scripts.command("look", id="x")[3]


def test_a_store_without_jobs_has_given_no_id(store: JobStore) -> None:
    assert store.last_id_us() == 0


def test_a_redis_that_is_away_is_said_to_be(tmp_path: Any, params: Params) -> None:
    store = JobStore.from_settings(Settings(redis_url=f"unix://{tmp_path}/nobody.sock"))
    for call in (store.ping, store.page, store.requeue_expired, lambda: create(store, params())):
        with pytest.raises(StoreUnavailable):
            call()


def test_a_redis_that_refuses_writes_counts_as_away(valkey: redis.Redis, store: JobStore, params: Params) -> None:
    valkey.config_set("min-replicas-to-write", 1)
    try:
        for write in (lambda: create(store, params()), store.ping):
            with pytest.raises(StoreUnavailable):
                write()
    finally:
        valkey.config_set("min-replicas-to-write", 0)
    assert create(store, params()).status == "queued"


def test_the_room_that_is_left_is_told_unless_the_user_may_not_ask(store: JobStore, valkey_socket: Path) -> None:
    room = store.room()
    assert room is not None and room.memory_bytes > 0 and 0 < room.connections < room.connection_limit
    store.client.acl_setuser("limited", enabled=True, nopass=True, keys=["*"], categories=["+@all", "-@dangerous"])
    with redis.Redis(unix_socket_path=str(valkey_socket), username="limited", password="any") as client:
        assert JobStore(client).room() is None
    store.client.acl_deluser("limited")


@pytest.mark.parametrize("lacking", ["-@scripting", "-@write", "-@read"])
def test_a_redis_whose_user_lacks_rights_counts_as_away(
    store: JobStore, valkey_socket: Path, params: Params, lacking: str
) -> None:
    store.client.acl_setuser("limited", enabled=True, nopass=True, keys=["*"], categories=["+@all", lacking])
    try:
        with redis.Redis(unix_socket_path=str(valkey_socket), username="limited", password="any") as client:
            for call in (lambda one: create(one, params()), lambda one: (one.page(), one.ping(), one.look("video_x"))):
                with pytest.raises(StoreUnavailable):
                    call(JobStore(client))
    finally:
        store.client.acl_deluser("limited")


def test_a_job_that_is_removed_while_it_is_listed_is_left_out_without_a_word(
    store: JobStore, params: Params, caplog: pytest.LogCaptureFixture
) -> None:
    gone, job = (create(store, params()) for _ in range(2))
    store.client.delete(f"adaspa:job:{gone.id}")
    assert store.page() == ([job], None) and store.unfinished("open") == [job]
    assert not caplog.records


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_job_that_cannot_be_read_ends_no_list(
    store: JobStore, params: Callable[..., JobParams], order: Literal["asc", "desc"]
) -> None:
    ids = [create(store, params()).id for _ in range(4)]
    for video_id in ids[1:3]:
        store.client.hset(f"adaspa:job:{video_id}", mapping={"priority": "urgent", "schema_version": "99"})
    found, after = list[str](), None
    for _ in ids:
        jobs, after = store.page(after, 1, order)
        found += [job.id for job in jobs]
        if after is None:
            break
    assert (found, after) == ([ids[0], ids[3]] if order == "asc" else [ids[3], ids[0]], None)
