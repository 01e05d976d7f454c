"""Clocks that are set, or wrong: Redis' own, and a gateway's. Only what passes while janitors look is counted."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from adaspa_api.words import JobStatus, Priority
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.job import JobParams
from adaspa_jobs.store import JobStore, LeaseLost
from adaspa_service.access.keys import KeyStore, Scope
from admitting import admit, create
from claiming import FAILURE, claimed, record
from faults import let_time_pass, set_clock_on
from running_gateway import Service

Params = Callable[..., JobParams]
DAY = 86400.0
LIMIT = 600.0
SETTINGS = [pytest.param(9 * DAY, id="ahead"), pytest.param(-9 * DAY, id="back")]


@pytest.fixture
def store(valkey: redis.Redis) -> JobStore:
    """A store whose limits end together; no test here waits for one."""
    return JobStore(valkey, lease_seconds=LIMIT, queue_seconds=LIMIT, result_ttl_seconds=LIMIT)


def sweep(store: JobStore) -> tuple[list[str], list[str], int]:
    """What a janitor finds: lost jobs, jobs that waited too long, ended ones whose time is over."""
    return store.requeue_expired(), store.time_out(), store.expire()


@pytest.mark.parametrize("seconds", SETTINGS)
@pytest.mark.parametrize("first", ["requeue_expired", "time_out", "expire"])
def test_a_clock_that_is_set_costs_no_job_anything(store: JobStore, params: Params, seconds: float, first: str) -> None:
    ended = claimed(store, create(store, params()))
    store.fail(ended, FAILURE)
    running = claimed(store, create(store, params()))
    waiting = create(store, params())
    assert sweep(store) == ([], [], 0)
    set_clock_on(store.client, seconds)
    assert not getattr(store, first)(), "whichever chore comes first after it"
    assert sweep(store) == ([], [], 0)
    store.renew(running)
    assert record(store, waiting.id).status is JobStatus.queued
    let_time_pass(store.client, LIMIT + 1)  # the time that they have is over
    assert sweep(store) == ([running.job.id], [waiting.id], 1)
    with pytest.raises(LeaseLost):
        store.renew(running)
    again = claimed(store, running.job)
    assert again.job.ran_ms < 2 * LIMIT * 1000, "what an attempt ran is not counted by the clock either"


@pytest.mark.parametrize("shortest", [1.0, LIMIT])
def test_a_gateway_with_another_lease_takes_no_job_from_a_worker_with_a_longer_one(
    store: JobStore, valkey: redis.Redis, params: Params, shortest: float
) -> None:
    """As during an update of the setting: a worker renews its lease when a share of its own length has passed."""
    gateway = JobStore(valkey, lease_seconds=shortest)
    lease = claimed(store, create(store, params()))
    assert sweep(gateway) == ([], [], 0)
    let_time_pass(valkey, 0.9 * LIMIT)
    assert sweep(gateway) == ([], [], 0)
    store.renew(lease)
    set_clock_on(valkey, DAY)  # nobody has looked for long: it gets its own lease's time again
    assert sweep(gateway) == ([], [], 0)
    let_time_pass(valkey, 0.9 * LIMIT)
    assert sweep(gateway) == ([], [], 0)
    let_time_pass(valkey, 0.2 * LIMIT)
    assert gateway.requeue_expired() == [lease.job.id]


def test_a_worker_of_an_earlier_version_does_not_get_the_lease_of_the_attempt_before(
    store: JobStore, valkey: redis.Redis, params: Params
) -> None:
    """Its scripts leave in the record what a worker with a shorter lease wrote there."""
    shorter = JobStore(valkey, lease_seconds=1.0)
    first = claimed(shorter, create(store, params()))
    key = f"adaspa:job:{first.job.id}"
    shorter.release(first)
    left: Any = valkey.hget(key, "lease_ms")
    claimed(store, first.job)
    valkey.hset(key, "lease_ms", left)
    assert sweep(store) == ([], [], 0)
    set_clock_on(valkey, DAY)
    assert sweep(store) == ([], [], 0)
    let_time_pass(valkey, 0.9 * LIMIT)
    assert sweep(store) == ([], [], 0)


def test_a_job_whose_turn_did_not_come_in_time_says_so_even_if_no_worker_came(
    valkey: redis.Redis, params: Params
) -> None:
    store = JobStore(valkey, queue_seconds=2 * LIMIT, unserved_seconds=LIMIT)
    job = create(store, params())
    let_time_pass(valkey, 2 * LIMIT + 1)
    assert store.time_out() == [job.id] and store.time_out() == []
    failed = record(store, job.id)
    assert failed.error is not None and failed.error.code == "queue_timeout"
    assert failed.error.message == f"No worker took the job within {2 * LIMIT:.0f} s."


def test_janitors_that_find_nothing_to_do_write_nothing(store: JobStore) -> None:
    def round_of_all() -> None:
        sweep(store)
        assert not store.take_purgeable() and not store.take_untidy() and not store.take_lost_inputs()

    def writes() -> int:
        found: Any = store.client.info("persistence")
        return int(found["rdb_changes_since_last_save"])

    round_of_all()
    before = writes()
    for _ in range(5):
        round_of_all()
    assert writes() == before, "not even that they looked: a write may have to wait for the disk"


def test_a_clock_that_is_set_back_before_anybody_looked_keeps_no_lost_job(store: JobStore, params: Params) -> None:
    lost = claimed(store, create(store, params()))
    store.client.zincrby("adaspa:leases", DAY * 1000, lost.job.id)
    assert sweep(store) == ([], [], 0)
    let_time_pass(store.client, LIMIT + 1)
    assert store.requeue_expired() == [lost.job.id]


def test_jobs_of_a_model_that_no_worker_serves_fail_in_their_own_time_and_with_their_own_code(
    valkey: redis.Redis, params: Params
) -> None:
    store, demo = JobStore(valkey, unserved_seconds=LIMIT), Catalog.load(None).default
    first = create(store, params())
    store.announce(demo, "worker-1", [Priority.interactive])
    bulk = admit(store, params(), priority=Priority.bulk)[0]
    assert store.time_out() == []
    let_time_pass(valkey, LIMIT + 1)
    store.announce(demo, "worker-1", [Priority.interactive])
    assert store.time_out() == [bulk.id], "a queue that is served may take its time"
    failed = record(store, bulk.id)
    assert failed.error is not None and failed.error.code == "model_not_served"
    assert failed.error.message == f"No worker served the model's queue for {LIMIT:.0f} s."
    let_time_pass(valkey, LIMIT + 1)
    late = create(store, params())
    assert store.time_out() == [first.id], "its worker has gone; a new job waits for another to start"
    assert record(store, late.id).status is JobStatus.queued


def test_a_clock_that_is_set_back_locks_no_key_out(valkey: redis.Redis) -> None:
    keys = KeyStore(valkey)
    key, _ = keys.create("studio", frozenset({Scope.read}), requests_per_minute=2)

    def refused() -> bool:
        rate = keys.use(key)
        return rate is not None and rate.wait_seconds is not None

    assert [refused() for _ in range(3)] == [False, False, True]
    valkey.incrbyfloat(f"adaspa:rate:{key.id}", DAY * 1000)
    assert not refused()


@pytest.mark.parametrize("off", [DAY, -DAY])
def test_links_and_cursors_do_not_go_by_the_gateways_own_clock(
    service: Service, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    video_id, real = service.completed(), time.time

    def wrong() -> float:
        return real() + off

    monkeypatch.setattr(time, "time", wrong)
    answer: Any = service.http.get(f"/videos/{video_id}/link", params={"expires_in": 60}).json()
    assert 0 < answer["expires_at"] - real() <= 61
    assert service.http.get(answer["url"]).status_code == 200
    assert service.http.get("/videos", params={"after": video_id}).status_code == 200


def test_pages_go_on_behind_a_job_that_was_made_before_the_clock_was_set_back(service: Service) -> None:
    def page(after: str) -> int:
        return service.http.get("/videos", params={"after": after}).status_code

    ahead = round((time.time() + 9 * DAY) * 1e6)
    service.store.client.set("adaspa:last_id", ahead)
    made = service.create()["id"]
    assert page(made) == 200
    assert page(f"video_{ahead + 10**9:014x}{made[20:]}") == 400, "no id has come so far"
