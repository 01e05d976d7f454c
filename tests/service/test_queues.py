"""Which job is next: fairness between owners, shares of interactive and bulk jobs, and what clients are told of it."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from adaspa_api.words import Priority
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.job import Job, JobParams
from adaspa_jobs.store import JobStore, Lease, QueueFull
from admitting import create
from running_gateway import REPORT, Service
from waiting import until

Params = Callable[..., JobParams]


@pytest.fixture
def begin(store: JobStore) -> Callable[..., Lease | None]:
    """Begins the job that is next, as a worker of its own."""
    numbers = itertools.count()
    return lambda **serving: store.claim("demo", f"worker-{next(numbers)}", **serving)


@pytest.fixture
def order(begin: Callable[..., Lease | None]) -> Callable[[], Iterator[Job]]:
    """Begins one job after the other until none waits."""

    def jobs() -> Iterator[Job]:
        while lease := begin():
            yield lease.job

    return jobs


def admit(store: JobStore, params: JobParams, owner: str = "a", cost: float = 1.0, bulk: bool = False) -> Job:
    priority = Priority.bulk if bulk else Priority.interactive
    return create(store, params, owner=owner, priority=priority, cost=cost)


def test_one_owners_thousand_jobs_delay_anothers_one_by_no_more_than_one(
    store: JobStore, params: Params, order: Any
) -> None:
    for _ in range(1000):
        admit(store, params(), "many")
    jobs = order()
    for _ in range(10):
        next(jobs)
    one = admit(store, params(), "one")
    assert store.queue_position(one) in (1, 2)
    assert one.id in [next(jobs).id for _ in range(2)]


def test_owners_take_turns_by_what_their_jobs_cost(store: JobStore, params: Params, order: Any) -> None:
    for _ in range(40):
        admit(store, params(), "small", cost=1)
        admit(store, params(), "large", cost=4)
    begun = Counter(job.owner for job in itertools.islice(order(), 40))
    assert begun["small"] in (31, 32, 33), "four small jobs for each large one"


def test_an_owners_jobs_stay_in_their_order(store: JobStore, params: Params, order: Any) -> None:
    made = [admit(store, params(), owner).id for owner in "aabab" for _ in range(3)]
    begun = [(job.owner, job.id) for job in order()]
    for owner in "ab":
        ids = [job_id for of, job_id in begun if of == owner]
        assert ids == sorted(ids, key=made.index)


def test_positions_are_the_order_in_which_jobs_begin(store: JobStore, params: Params, order: Any) -> None:
    jobs = [admit(store, params(), owner, cost) for owner, cost in zip("aaaabbcabca", [1, 5, 1, 2] * 3, strict=False)]
    positions = store.queue_positions(jobs)
    assert sorted(positions.values()) == list(range(1, len(jobs) + 1))
    assert [job.id for job in order()] == sorted(positions, key=lambda job_id: positions[job_id])


def test_jobs_that_are_cancelled_while_they_wait_cost_their_owner_nothing(
    store: JobStore, params: Params, order: Any
) -> None:
    cancelled = [admit(store, params(), "a") for _ in range(20)]
    last = admit(store, params(), "a")
    others = [admit(store, params(), "b") for _ in range(20)]
    for job in cancelled:
        store.request_cancel(job.id)
    assert store.queue_position(last) in (1, 2)
    assert store.queue_position(admit(store, params(), "a")) in (3, 4)
    assert {job.id for job in itertools.islice(order(), 2)} == {last.id, others[0].id}


def test_an_owner_of_very_many_jobs_keeps_their_order_whatever_it_cancels(
    valkey: redis.Redis, params: Params, order: Any
) -> None:
    """Not all of them move up."""
    store = JobStore(valkey, queue_cap=2000)
    jobs = store.admit_all([params()] * 1005, owner="a").jobs
    other = admit(store, params(), "b")
    for job in jobs[:5]:
        store.request_cancel(job.id)
    last = admit(store, params(), "a")
    begun = [job.id for job in order()]
    assert begun.index(other.id) <= 1
    assert [job_id for job_id in begun if job_id != other.id] == [*(job.id for job in jobs[5:]), last.id]


def test_a_job_that_was_released_is_next_again(store: JobStore, params: Params, begin: Any) -> None:
    for owner in "aabb":
        admit(store, params(), owner)
    lease = begin()
    store.release(lease)
    back = store.get(lease.job.id)
    assert back is not None and store.queue_position(back) == 1
    assert begin().job.id == lease.job.id


def test_bulk_jobs_get_their_share_while_interactive_ones_wait_and_all_when_none_does(
    store: JobStore, params: Params, order: Any
) -> None:
    for _ in range(100):
        admit(store, params())
    for _ in range(10):
        admit(store, params(), cost=5, bulk=True)
    begun = list(order())
    first = begun[: len(begun) // 2]
    work = {priority: sum(job.cost for job in first if job.priority is priority) for priority in Priority}
    assert 0.15 <= work[Priority.bulk] / sum(work.values()) <= 0.3
    gaps = [i for i, job in enumerate(begun) if job.priority is Priority.bulk]
    assert gaps[0] <= 25 and max(b - a for a, b in itertools.pairwise(gaps)) <= 25, "none waits for ever"
    assert len(begun) == 110


@pytest.mark.parametrize("first", Priority)
def test_a_queue_that_was_empty_has_not_saved_up_its_share(
    store: JobStore, params: Params, begin: Any, first: Priority
) -> None:
    for busy in (True, False):  # one of them is used for long, then both are empty
        for _ in range(40):
            admit(store, params(), bulk=busy)
            begin()
        for priority in (first, *Priority):
            for _ in range(20):
                admit(store, params(), bulk=priority is Priority.bulk)
        begun = [begin().job.priority for _ in range(20)]
        assert begun.count(Priority.bulk) in (3, 4, 5)
        while begin():
            pass


def test_a_worker_serves_only_the_queue_it_is_told_to(store: JobStore, params: Params, begin: Any) -> None:
    bulk = admit(store, params(), bulk=True)
    assert begin(priorities=[Priority.interactive]) is None
    assert begin(priorities=[Priority.bulk]).job.id == bulk.id


def test_a_worker_rings_for_a_job_whose_bell_led_to_the_other_queues(
    store: JobStore, params: Params, begin: Any
) -> None:
    """One that serves interactive jobs alone would not hear of the one that is left, whoever took its bell."""
    for bulk in (False, False, True):
        admit(store, params(), bulk=bulk)
    store.client.rpush("generate.demo:bulk", "the bulk job's bell")
    begun = [begin().job.priority for _ in range(2)]  # by workers for both, who took the interactive jobs' bells
    assert sorted(begun) == ["bulk", "interactive"]
    bells = store.announce(Catalog.load(None).default, "worker-9", [Priority.interactive])
    assert bells == {Priority.interactive: 1}


def test_each_queue_has_its_own_cap(valkey: redis.Redis, params: Params) -> None:
    store = JobStore(valkey, queue_cap=2)
    for bulk in (False, True):
        for _ in range(2):
            admit(store, params(), bulk=bulk)
        with pytest.raises(QueueFull):
            admit(store, params(), bulk=bulk)
    assert {priority: queue.waiting for priority, queue in store.load("demo").queues.items()} == {
        Priority.interactive: 2,
        Priority.bulk: 2,
    }


def test_a_full_queue_keeps_out_only_those_who_have_their_part_of_it(valkey: redis.Redis, params: Params) -> None:
    store = JobStore(valkey, queue_cap=6)

    def admitted(owner: str) -> int:
        for count in range(20):
            try:
                admit(store, params(), owner)
            except QueueFull:
                return count
        return 20

    assert [admitted(owner) for owner in "abca"] == [6, 3, 2, 0]
    assert store.claim("demo", "worker-1") is not None
    assert admitted("a") == 0, "more still wait than the cap"


def test_nothing_but_counters_is_left_of_the_queues(store: JobStore, params: Params, order: Any) -> None:
    for owner in "aabbcc":
        admit(store, params(), owner, cost=1.7, bulk=owner == "b")
    store.request_cancel(admit(store, params(), "a", cost=0.3).id)
    for job in order():
        store.complete(Lease(job), {}, REPORT, {})
    for kind in ("waiting", "arrivals", "owned", "waiting_by_owner"):
        assert not list(store.client.scan_iter(f"adaspa:{kind}:*"))
    assert not store.client.exists("adaspa:backlog") and not store.client.exists("adaspa:leases_by_worker")


def test_a_request_waits_in_the_queue_that_its_work_or_its_sender_says(service: Service) -> None:
    default = Catalog.load(None).default
    assert service.create()["priority"] == "interactive"
    assert service.create(priority="bulk")["priority"] == "bulk"
    assert service.create(steps=default.default_steps * 4)["priority"] == "interactive"
    long = service.create(steps=default.default_steps * 4 + 1)
    assert (long["priority"], long["queue_position"]) == ("bulk", 2), "positions are those of its queue"
    refused = service.http.post("/videos", json={"prompt": "x", "steps": 100, "priority": "interactive"})
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, "priority") and "allowed: bulk" in error["message"]
    unknown = service.http.post("/videos", json={"prompt": "x", "priority": "now"}).json()["error"]
    assert unknown["param"] == "priority" and "interactive, bulk" in unknown["message"]


def test_a_queued_job_shows_when_it_is_expected_to_begin(service: Service) -> None:
    service.store.client.rpush("adaspa:paces:demo", "10")
    jobs = [service.create() for _ in range(4)]
    assert [job["starts_in_seconds"] for job in jobs] == [None] * 4, "no worker runs"
    for worker in ("a", "b"):
        service.store.announce(Catalog.load(None).default, worker)

    def expected() -> list[float | None]:
        return [service.http.get(f"/videos/{job['id']}").json()["starts_in_seconds"] for job in jobs]

    until(lambda: expected() == [0, 5, 10, 15], "two idle workers, 10 s a job")
    listed = service.http.get("/videos", params={"order": "asc"}).json()["data"]
    assert [job["starts_in_seconds"] for job in listed] == [0, 5, 10, 15]
    for worker in ("a", "b"):
        service.store.claim("demo", worker)
    until(lambda: (begins := expected()[2]) is not None and begins < 10, "a worker has got on with its job")
    assert expected()[:2] == [None, None]


def test_workers_are_counted_for_the_queues_that_they_serve(store: JobStore, params: Params, begin: Any) -> None:
    demo = Catalog.load(None).default
    store.client.rpush("adaspa:paces:demo", "1000")  # what passes here is little of that

    def expected(position: int) -> dict[str, float | None]:
        load = store.load("demo")
        return {priority: load.starts_in(priority, position) for priority in Priority}

    for worker in ("worker-0", "reserved"):
        store.announce(demo, worker, [Priority.interactive])
    assert expected(1) == {"interactive": 0, "bulk": None}, "nobody serves bulk jobs"
    store.announce(demo, "worker-1")
    assert expected(4) == {"interactive": 1000, "bulk": 3000}, "by three workers, and by one"
    for bulk in (False, True):
        for _ in range(2):
            admit(store, params(), bulk=bulk)
    assert expected(3) == pytest.approx({"interactive": 2000 / 2.4, "bulk": 2000 / 0.6}), "shares of three workers"
    assert begin(priorities=[Priority.interactive]) and begin()
    assert 900 < (expected(1)["bulk"] or 0) <= 1000, "the idle worker is not one of its own"
    assert expected(1)["interactive"] == 0
    store.announce(demo, "worker-1", [Priority.interactive])
    assert expected(1)["bulk"] is None, "a worker may be started anew for another queue"
