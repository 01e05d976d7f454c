"""One entry of Redis that is gone or cannot be read, or one file that cannot be removed: all others are served on."""

import json
import logging
import shlex
from collections.abc import Callable
from typing import Any

import pytest
import redis
from adaspa_api.words import Priority
from adaspa_jobs import counters
from adaspa_jobs.fits import Fits
from adaspa_jobs.job import JobParams, Progress
from adaspa_jobs.logs import AUDIT
from adaspa_jobs.settings import Settings
from adaspa_jobs.storage import StorageUnavailable
from adaspa_jobs.store import JobStore, Lease, TooManyInFlight
from adaspa_service.access.keys import Scope
from adaspa_service.gateway.janitor import Janitor
from adaspa_service.gateway.state import AppState
from admitting import create
from claiming import FAILURE, VIDEO, claim, claimed, lose_lease, nothing_is_held, record
from faults import let_time_pass
from prometheus_text import value
from running_gateway import REPORT, Service

SPOILED: dict[str, Callable[[redis.Redis, str], Any]] = {
    "gone": lambda client, key: client.delete(key),
    "params are not JSON": lambda client, key: client.hset(key, "params", "{oops"),
    "params are no object": lambda client, key: client.hset(key, "params", "[]"),
    "without an owner": lambda client, key: client.hdel(key, "owner"),
    "without a model": lambda client, key: client.hdel(key, "model"),
    "cost is no number": lambda client, key: client.hset(key, "cost", "much"),
    "without a version": lambda client, key: client.hdel(key, "schema_version"),
    "lost attempts are no number": lambda client, key: client.hset(key, "lost_attempts", "few"),
    "metadata is not JSON": lambda client, key: client.hset(key, "metadata", "{oops"),
    "metadata is no object": lambda client, key: client.hset(key, "metadata", '["order"]'),
    "user is not UTF-8": lambda client, key: client.hset(key, "user", b"\xff"),
}
LATER = 10_000_000.0
"""Seconds after which every limit is over."""


@pytest.fixture
def state(settings: Settings, valkey: redis.Redis) -> AppState:
    """A gateway's parts."""
    return AppState.of(settings)


@pytest.fixture(params=SPOILED)
def spoil(request: pytest.FixtureRequest, valkey: redis.Redis) -> Callable[[str], None]:
    """Make a job's record unreadable."""

    def spoil(job_id: str) -> None:
        SPOILED[request.param](valkey, f"adaspa:job:{job_id}")

    return spoil


def leading_to(client: redis.Redis, job_id: str) -> set[str]:
    """Keys that hold a job's id, but for those that only its owner looks at."""
    found = set[str]()
    for key in client.scan_iter("adaspa:*"):
        name = key.decode().removeprefix("adaspa:")
        kind = client.type(key)
        held: Any = client.zrange(key, 0, -1) if kind == b"zset" else ()
        held = client.smembers(key) if kind == b"set" else client.hvals(key) if kind == b"hash" else held
        if job_id.encode() in held:
            found.add(name)
    return {name for name in found if name.partition(":")[0] not in ("jobs", "unfinished")}


def next_lease(store: JobStore) -> Lease:
    """Claim as a worker does, which tries a job that it cannot read as often as one that it lost."""
    claims = (store.claim("demo", "worker", "after") for _ in range(store.max_attempts + 1))
    return next(lease for lease in claims if lease is not None)


def test_the_queue_goes_on(state: AppState, params: Callable[..., JobParams], spoil: Callable[[str], None]) -> None:
    store = state.store
    first, second = (create(store, params(), owner=owner).id for owner in ("another", "open"))
    spoil(first)
    assert store.load("demo").waiting == 2
    assert second in [job.id for job in store.page()[0]] and second in [job.id for job in store.unfinished("open")]
    assert store.page_with({"order": "17"}) == ([], None)
    lease = next_lease(store)
    assert lease.job.id == second
    assert leading_to(store.client, first) <= {"expiry", "leavings"}
    assert not list(store.client.scan_iter("adaspa:owned:*")), "nobody has a part of a queue in which nothing waits"
    store.complete(lease, VIDEO, REPORT, {})
    assert nothing_is_held(store)


def test_waiting_jobs_time_out(
    state: AppState, valkey: redis.Redis, params: Callable[..., JobParams], spoil: Callable[[str], None]
) -> None:
    first, second = (create(state.store, params()).id for _ in range(2))
    spoil(first)
    let_time_pass(valkey, LATER)
    Janitor(state).sweep()
    assert record(state.store, second).status == "failed" and nothing_is_held(state.store)


def test_lost_jobs_come_back(state: AppState, params: Callable[..., JobParams], spoil: Callable[[str], None]) -> None:
    store, jobs = state.store, [create(state.store, params()) for _ in range(2)]
    for job in jobs:
        claimed(store, job)
        lose_lease(store, job.id)
    spoil(jobs[0].id)
    assert store.load("demo").running <= 2
    Janitor(state).sweep()
    assert record(store, jobs[1].id).status == "queued"
    assert store.load("demo").running == 0, "no worker is kept for a job that nobody runs"
    assert not {"leases", "running:demo"} & leading_to(store.client, jobs[0].id)
    assert store.take_set_aside() == [], "it is told once"


def test_a_worker_starts_again(state: AppState, params: Callable[..., JobParams], spoil: Callable[[str], None]) -> None:
    store, (first, second) = state.store, [create(state.store, params()).id for _ in range(2)]
    assert isinstance(store.claim("demo", "worker", "before"), Lease)
    spoil(first)
    store.start_worker("worker")
    assert next_lease(store).job.id == second


def test_ended_jobs_are_removed(
    state: AppState, valkey: redis.Redis, params: Callable[..., JobParams], spoil: Callable[[str], None]
) -> None:
    jobs = [create(state.store, params()) for _ in range(2)]
    for job in jobs:
        state.store.fail(claimed(state.store, job), FAILURE)
    spoil(jobs[0].id)
    let_time_pass(valkey, LATER)
    Janitor(state).sweep()
    assert state.store.get(jobs[1].id) is None
    assert not any(valkey.exists(f"adaspa:{left}") for left in ("expiry", "leavings", "purge"))


def test_a_job_whose_record_is_gone_takes_no_place_of_its_owners(
    state: AppState, valkey: redis.Redis, params: Callable[..., JobParams]
) -> None:
    job_id = create(state.store, params()).id
    valkey.delete(f"adaspa:job:{job_id}")
    (job,) = state.store.admit_all([params()], max_in_flight=1).jobs
    with pytest.raises(TooManyInFlight):
        state.store.admit_all([params()], max_in_flight=1)
    assert [one.id for one in state.store.unfinished("open")] == [job.id]


@pytest.mark.parametrize("way", ["gone", "without an owner"])
def test_what_is_left_of_a_job_that_nobody_owns_stays_for_a_while_only(
    valkey: redis.Redis, params: Callable[..., JobParams], way: str
) -> None:
    store = JobStore(valkey, result_ttl_seconds=3600.0)
    lease = claimed(store, create(store, params()))
    store.report_preview(lease, Progress(phase="denoising", step=1, steps=10, preview_step=1), b"RIFF")
    SPOILED[way](valkey, f"adaspa:job:{lease.job.id}")
    lose_lease(store, lease.job.id)
    assert store.requeue_expired() == []
    left = [key for key in valkey.scan_iter("adaspa:*") if lease.job.id.encode() in key]
    assert left and all(3500 < valkey.ttl(key) <= 3600 for key in left)


def test_the_log_names_a_job_that_is_set_aside_once(
    state: AppState, valkey: redis.Redis, params: Callable[..., JobParams], caplog: pytest.LogCaptureFixture
) -> None:
    job_id = create(state.store, params()).id
    valkey.delete(f"adaspa:job:{job_id}")
    assert state.store.claim("demo", "worker") is None
    janitor = Janitor(state)
    janitor.sweep()
    janitor.sweep()
    told = [one for one in caplog.records if "set aside" in one.getMessage()]
    assert [(one.levelno, job_id in one.getMessage()) for one in told] == [(logging.ERROR, True)]


def test_a_running_job_is_set_aside_once_however_often_its_worker_asks(
    state: AppState, valkey: redis.Redis, params: Callable[..., JobParams]
) -> None:
    job_id = claimed(state.store, create(state.store, params())).job.id
    worker = record(state.store, job_id).worker
    assert worker is not None
    valkey.hset(f"adaspa:job:{job_id}", "params", "{oops")
    assert [state.store.claim("demo", worker, "after") for _ in range(3)] == [None] * 3
    assert state.store.take_set_aside() == [job_id]


def test_an_attempt_whose_record_holds_the_names_of_its_fields_as_values_is_ended(
    state: AppState, valkey: redis.Redis, params: Callable[..., JobParams]
) -> None:
    first, second = (create(state.store, params()).id for _ in range(2))
    key = f"adaspa:job:{first}"
    fields = valkey.hgetall(key)
    valkey.delete(key)
    valkey.hset(key, mapping={b"user": b"token", b"metadata": b"{oops"} | fields)
    assert next_lease(state.store).job.id == second


def test_what_workers_announced_may_be_unreadable(
    state: AppState, valkey: redis.Redis, params: Callable[..., JobParams]
) -> None:
    store = state.store
    valkey.hset("adaspa:served", "demo", "not JSON")
    told_by = {"worker": "not JSON", "odd": '{"frames": null}', "odder": '{"frames": {"": {"128x128": {}}}}'}
    told_by["later"] = '{"limit": 9, "frames": {}, "invented": 1}'
    for worker, told in told_by.items():
        for known in ("workers:demo", "serving:demo"):
            valkey.zadd(f"adaspa:{known}", {worker: 1e15})
        valkey.hset("adaspa:fits:demo", worker, told)
    assert [each for each in store.load("demo").queues[Priority.interactive].fits if each] == [Fits(limit=9, frames={})]
    job = create(store, params())
    for worker in told_by:
        lease = store.claim("demo", worker)
        assert lease is not None
        store.release(lease)
    claim(store, job.id)
    lose_lease(store, job.id)
    assert store.requeue_expired() == [job.id]


def test_times_that_a_later_version_noted_are_passed_over(store: JobStore, valkey: redis.Redis) -> None:
    size = {"width": 64, "height": 64, "num_frames": 9, "steps": 4, "guided": True}
    known = [size | {"denoising": seconds, "rest": 1.0} for seconds in (1.0, 2.0, 3.0)]
    noted = [known[0], "not JSON", known[1], size, known[2] | {"invented": 1}]
    valkey.rpush("adaspa:times:demo:fast", *[each if isinstance(each, str) else json.dumps(each) for each in noted])
    assert [each.denoising for each in store.times("demo")["fast"]] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("chore", ["purge", "tidy"])
def test_files_that_cannot_be_removed_keep_no_others(
    state: AppState, params: Callable[..., JobParams], chore: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, storage, jobs = state.store, state.storage, [create(state.store, params()) for _ in range(2)]
    for job in jobs:
        lease = claimed(store, job)
        storage.create(f"videos/{job.id}/{lease.token}/left", b"half a video")
        if chore == "purge":
            store.discard(job.id)
            store.release_cancelled(lease)
        else:
            store.fail(lease, FAILURE)
    refused, delete = f"videos/{jobs[0].id}/", storage.delete

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(storage), "delete", lambda _, key: refuse(key) if key.startswith(refused) else delete(key))
        Janitor(state).sweep()
    assert [key.split("/")[1] for key in storage.keys("videos/")] == [jobs[0].id]
    assert f"janitor: {chore}" in caplog.text


def test_a_look_for_orphans_that_failed_does_not_wait_for_the_next_interval(
    state: AppState, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("adaspa_service.gateway.janitor.AGAIN_SECONDS", 0.0)
    storage, janitor = state.storage, Janitor(state)
    storage.create(".probe/left", b"adaspa")
    with monkeypatch.context() as patched:
        patched.setattr(type(storage), "delete", lambda _, key: refuse(key))
        janitor.sweep()
        janitor.sweep()
    assert storage.keys(".probe/") == [".probe/left"]
    assert caplog.text.count("janitor: remove_orphans") == 1, "it is told once"
    janitor.sweep()
    assert storage.keys(".probe/") == []


def refuse(key: str) -> None:
    raise StorageUnavailable(f"storage: {key}: not permitted")


def test_a_key_with_a_scope_of_a_later_version_has_the_others(state: AppState, valkey: redis.Redis) -> None:
    key, token = state.keys.create("studio", frozenset({Scope.read}))
    state.keys.create("other", frozenset(Scope))
    valkey.hset(f"adaspa:key:{key.id}", "scopes", "read upscale")
    known = state.keys.authenticate(token)
    assert known is not None and known.scopes == {Scope.read}
    assert {one.name for one in state.keys.all()} == {"studio", "other"}


def test_an_act_that_cannot_be_read_loses_none_of_the_others(
    state: AppState, valkey: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    for act in ('{"event": "key.created"}', "{oops", '["odd"]', '{"event": "key.aged", "days": 3}'):
        valkey.lpush("adaspa:acts", act)
    caplog.set_level(logging.INFO)
    Janitor(state).sweep()
    told = [one.getMessage() for one in caplog.records if one.name == AUDIT]
    assert [line.split()[0] for line in told] == [
        "event=key.created",
        "event=unreadable",
        "event=unreadable",
        "event=key.aged",
    ]


def test_what_a_later_version_counts_is_left_out_of_the_usage(
    state: AppState, valkey: redis.Redis, params: Callable[..., JobParams]
) -> None:
    state.store.fail(claimed(state.store, create(state.store, params())), FAILURE)
    (key,) = valkey.keys("adaspa:usage:*")
    valkey.hset(key, "open|demo|upscaled", 3)
    ((row,),) = state.store.usage(1).values()
    assert row.failed == 1


@pytest.mark.parametrize("damage", ["no number", "another type"])
def test_jobs_end_whatever_became_of_their_counters(
    state: AppState, valkey: redis.Redis, params: Callable[..., JobParams], damage: str
) -> None:
    store = state.store
    store.fail(claimed(store, create(store, params())), FAILURE)
    valkey.hset("adaspa:leases_lost", "demo", 1)
    for key in ("adaspa:ended", "adaspa:leases_lost", *valkey.keys("adaspa:usage:*")):
        names: Any = valkey.hkeys(key)
        if damage == "another type":
            valkey.delete(key)
            valkey.sadd(key, *names)
        else:
            valkey.hset(key, mapping=dict.fromkeys(names, "many"))
    totals = store.totals()
    assert (totals.ended, totals.leases_lost, store.usage(2)) == ({}, {}, {})
    assert totals.damaged == {"ended": 1, "leases_lost": 1}
    lost, ended = (create(store, params()) for _ in range(2))
    claimed(store, lost)
    lose_lease(store, lost.id)
    assert store.requeue_expired() == [lost.id]
    for job in (lost, ended):
        store.fail(claimed(store, job), FAILURE)
        assert record(store, job.id).status == "failed"
    assert nothing_is_held(store)
    if damage == "another type":  # else nothing is counted there until it is removed
        totals = store.totals()
        assert (sum(totals.ended.values()), totals.leases_lost) == (2, {"demo": 1})
        assert totals.damaged == {"ended": 0, "leases_lost": 0}
        assert sum(row.failed for rows in store.usage(2).values() for row in rows) == 2
        assert all(valkey.ttl(key) > 0 for key in valkey.keys("adaspa:usage:*"))


def test_a_damaged_counter_is_named_and_hides_no_other(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    counters.tell.cache_clear()  # each is told once for a process
    service.store.fail(service.claim(service.create()["id"]), FAILURE)
    service.http.post(f"/videos/{service.create()['id']}/cancel").raise_for_status()
    client = service.store.client
    (usage,) = client.keys("adaspa:usage:*")
    unaddable = dict(enumerate(("+5", " 7", "1_0", "007", "-0", "9" * 30)))
    client.hset("adaspa:ended", mapping={f"demo|failed|{code}": number for code, number in unaddable.items()})
    client.hset("adaspa:ended", mapping={"demo|failed|generation_failed": "many", "odd": 3, "it's|odd": 3})
    client.hset("adaspa:leases_lost", "demo", "1.5")
    client.hset("adaspa:webhook_counts", "ended|dead", b"\xff")
    client.hset(usage, "open|demo|failed", "some")
    told = service.http.get("/metrics").text
    damaged = {"ended": 3 + len(unaddable), "leases_lost": 1, "webhook_counts": 1}
    assert {key: value(told, "adaspa_damaged_counters", key=key) for key in damaged} == damaged
    assert value(told, "adaspa_jobs_ended_total", model="demo", status="cancelled", code="") == 1
    assert service.http.get("/usage").json()["data"][0]["cancelled"] == 1
    for field in ("demo|failed|generation_failed' of adaspa:ended", "demo' of adaspa:leases_lost", "open|demo|failed"):
        assert field in caplog.text
    assert removed_as_told(client, caplog) == sum(damaged.values()) + 1
    assert {value(service.http.get("/metrics").text, "adaspa_damaged_counters", key=key) for key in damaged} == {0}


def removed_as_told(client: redis.Redis, caplog: pytest.LogCaptureFixture) -> int:
    """Run the commands that the log gives, as a shell reads them; how many fields or keys they removed."""
    told = [each.getMessage().partition("; remove it: ")[2] for each in caplog.records]
    return sum(client.execute_command(*shlex.split(command)) for command in told if command)


def test_counters_of_another_type_are_told_and_hide_no_others(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    counters.tell_all.cache_clear()  # each is told once for a process
    service.store.fail(service.claim(service.create()["id"]), FAILURE)
    client = service.store.client
    (usage,) = client.keys("adaspa:usage:*")
    damaged = ("leases_lost", "webhook_counts")
    for key in (usage, *(f"adaspa:{key}" for key in damaged)):
        client.delete(key)
        client.set(key, "odd")
    told = service.http.get("/metrics").text
    assert {key: value(told, "adaspa_damaged_counters", key=key) for key in damaged} == dict.fromkeys(damaged, 1)
    assert value(told, "adaspa_jobs_ended_total", model="demo", status="failed", code="generation_failed") == 1
    assert service.http.get("/usage").json()["data"] == []
    assert removed_as_told(client, caplog) == 3
    assert {value(service.http.get("/metrics").text, "adaspa_damaged_counters", key=key) for key in damaged} == {0}
