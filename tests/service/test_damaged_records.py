"""A job whose record in Redis is damaged: its owner is told so, and can delete it; nobody else hears of it."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
import redis
from adaspa_api.words import Priority
from adaspa_jobs.job import SCHEMA_VERSION, JobParams
from adaspa_jobs.store import JobCancelled, JobStore, Lease, LeaseLost
from adaspa_service.access.keys import Scope
from admitting import create
from running_gateway import Service
from waiting import until

DAMAGE: dict[str, Callable[[redis.Redis, str], Any]] = {
    "params are not JSON": lambda client, key: client.hset(key, "params", "{oops"),
    "params lack the prompt": lambda client, key: client.hset(key, "params", '{"steps": 8}'),
    "no params": lambda client, key: client.hdel(key, "params"),
    "no model": lambda client, key: client.hdel(key, "model"),
    "no priority": lambda client, key: client.hdel(key, "priority"),
    "no attempt": lambda client, key: client.hdel(key, "attempt"),
    "no progress": lambda client, key: client.hdel(key, "progress"),
    "no status": lambda client, key: client.hdel(key, "status"),
    "cost is no number": lambda client, key: client.hset(key, "cost", "much"),
    "progress is not JSON": lambda client, key: client.hset(key, "progress", "{oops"),
    "status is no word of ours": lambda client, key: client.hset(key, "status", "odd"),
    "version is no number": lambda client, key: client.hset(key, "schema_version", "new"),
    "metadata is not JSON": lambda client, key: client.hset(key, "metadata", "{oops"),
    "user is not UTF-8": lambda client, key: client.hset(key, "user", b"\xff"),
    "artifacts are a list": lambda client, key: client.hset(key, "artifacts", "[]"),
}
PHASES = ("queued", "running", "completed")
HELD = ("waiting:demo", "arrivals:demo", "running:demo", "leases", "expiry", "purge", "leavings", "backlog")


def in_phase(service: Service, phase: str) -> tuple[str, Lease | None]:
    """A job that is so far, and its attempt."""
    video_id = service.create()["id"]
    lease = None if phase == "queued" else service.claim(video_id)
    if phase == "completed":
        assert lease is not None
        service.complete(lease)
    return video_id, lease


def stop(service: Service, lease: Lease) -> None:
    """Do as a worker does when it hears that its job was cancelled, or is no longer its own."""
    try:
        service.store.renew(lease)
    except JobCancelled:
        service.store.release_cancelled(lease)
    except LeaseLost:
        pass


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_its_owner_is_told_and_can_delete_it(service: Service, valkey: redis.Redis, damage: str, phase: str) -> None:
    video_id, lease = in_phase(service, phase)
    DAMAGE[damage](valkey, f"adaspa:job:{video_id}")
    for method, path in (
        ("GET", ""),
        ("GET", "/content"),
        ("GET", "/link"),
        ("GET", "/preview"),
        ("POST", "/cancel"),
        ("GET", ""),
    ):
        answer = service.http.request(method, f"/videos/{video_id}{path}")
        assert answer.status_code in (200, 404, 409, 410), (method, path, answer.text)
        if answer.status_code == 410:
            assert answer.json()["error"]["code"] == "record_damaged"
            assert video_id in answer.json()["error"]["message"]
    assert service.http.get("/videos").status_code == 200
    assert service.http.delete(f"/videos/{video_id}").json()["deleted"]
    assert service.http.get(f"/videos/{video_id}").status_code == 404
    if phase == "running" and lease is not None:
        stop(service, lease)
    until(lambda: not valkey.exists(f"adaspa:job:{video_id}"), "the record is gone")
    assert not [name for name in HELD if valkey.exists(f"adaspa:{name}")]
    assert not valkey.smembers("adaspa:unfinished:open")
    assert not list(service.parts.storage.keys("videos/"))


def test_one_that_no_script_can_read_has_failed_for_its_owner(service: Service, valkey: redis.Redis) -> None:
    video_id = service.create()["id"]
    with httpx.stream("GET", f"{service.url}/videos/{video_id}/events", timeout=None) as followed:
        events = followed.iter_lines()
        assert next(events) == "event: queued"
        valkey.hdel(f"adaspa:job:{video_id}", "model")
        assert service.store.claim("demo", "worker") is None
        assert "event: failed" in events, "who follows it is told"
    video = service.http.get(f"/videos/{video_id}").json()
    assert (video["status"], video["error"]["code"]) == ("failed", "record_damaged")
    assert video["expires_at"] and video["completed_at"]
    assert service.store.totals().ended == {("", "failed", "record_damaged"): 1}
    valkey.zadd("adaspa:expiry", {video_id: 0}, xx=True)
    until(lambda: not valkey.exists(f"adaspa:job:{video_id}"), "it expires as others do")


@pytest.mark.asks
def test_others_hear_nothing_of_it(service: Service, valkey: redis.Redis) -> None:
    mine, others = (service.parts.keys.create(name, frozenset(Scope))[1] for name in ("mine", "others"))
    service.http.headers["Authorization"] = f"Bearer {mine}"
    video_id = service.create()["id"]
    valkey.hset(f"adaspa:job:{video_id}", "params", "{oops")
    assert service.http.get(f"/videos/{video_id}").status_code == 410
    for method in ("GET", "DELETE"):
        answer = service.http.request(method, f"/videos/{video_id}", headers={"Authorization": f"Bearer {others}"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "video_not_found")
    assert service.http.get(f"/videos/{video_id}").status_code == 410, "nor can they delete it"
    valkey.hdel(f"adaspa:job:{video_id}", "owner")
    assert service.http.get(f"/videos/{video_id}").status_code == 404, "whose it was, nobody knows"


def test_one_of_a_later_version_is_not_damaged(service: Service, valkey: redis.Redis) -> None:
    video_id = service.create()["id"]
    valkey.hset(f"adaspa:job:{video_id}", mapping={"schema_version": SCHEMA_VERSION + 1, "params": '{"steps": 8}'})
    for method in ("GET", "DELETE"):
        answer = service.http.request(method, f"/videos/{video_id}")
        assert (answer.status_code, bool(answer.headers["Retry-After"])) == (503, True)
    assert valkey.zcard("adaspa:waiting:demo") == 1


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_list_goes_on_behind_it(service: Service, valkey: redis.Redis, order: str) -> None:
    ids = [service.create()["id"] for _ in range(5)]
    for video_id in ids[1:4]:
        valkey.hset(f"adaspa:job:{video_id}", "params", "{oops")
    found, query = [], {"limit": 1, "order": order}
    for _ in ids:
        page = service.http.get("/videos", params=query).json()
        found += [video["id"] for video in page["data"]]
        query["after"] = page["last_id"]
        if not page["has_more"]:
            break
    assert sorted(found) == [ids[0], ids[4]] and not page["has_more"]


def test_a_request_whose_job_is_gone_may_be_repeated(service: Service, valkey: redis.Redis) -> None:
    first = service.http.post("/videos", json={"prompt": "a circle"}, headers={"Idempotency-Key": "one"}).json()["id"]
    valkey.delete(f"adaspa:job:{first}")
    for replayed in (None, "true"):
        answer = service.http.post("/videos", json={"prompt": "a circle"}, headers={"Idempotency-Key": "one"})
        assert (answer.status_code, answer.headers.get("Idempotent-Replayed")) == (200, replayed)
        assert answer.json()["id"] != first


@pytest.mark.parametrize("damage", ["gone", "cost is no number", "no params"])
def test_the_work_that_waits_is_counted_without_it(
    store: JobStore, valkey: redis.Redis, params: Callable[..., JobParams], damage: str
) -> None:
    ids = [create(store, params(), cost=cost).id for cost in (1.0, 8.0, 2.0, 4.0)]
    key = f"adaspa:job:{ids[1]}"
    DAMAGE.get(damage, lambda client, key: client.delete(key))(valkey, key)
    lease = store.claim("demo", "one")
    assert lease is not None and lease.job.id == ids[0]
    lease = store.claim("demo", "other")
    assert lease is not None and lease.job.id == ids[2], "the one before it is set aside"
    assert store.load("demo").queues[Priority.interactive].cost == 4.0
    assert store.claim("demo", "third") is not None
    assert not valkey.exists("adaspa:backlog")


def test_a_queue_that_held_nothing_else_is_empty(
    store: JobStore, valkey: redis.Redis, params: Callable[..., JobParams]
) -> None:
    valkey.delete(f"adaspa:job:{create(store, params(), cost=3.0).id}")
    assert store.claim("demo", "one") is None
    assert store.load("demo").queues[Priority.interactive].cost == 0.0
