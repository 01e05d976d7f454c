"""A Redis that has used all its memory: it takes nothing new, and gets emptier by what ends and what is removed."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from adaspa_api.words import Priority
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.job import JobParams, Progress
from adaspa_jobs.queue import QueueUnavailable, make_celery, ring
from adaspa_jobs.settings import Settings
from adaspa_jobs.store import JobCancelled, JobStore, StoreUnavailable
from adaspa_service.access.keys import Scope
from adaspa_service.webhooks.deliveries import DeliveryStore, Outcome
from admitting import admit, create
from claiming import FAILURE, VIDEO, claimed, record
from faults import let_time_pass
from running_gateway import REPORT, serving
from valkey_process import start_valkey
from waiting import until

PROMPT = {"prompt": "a red circle " * 20}
ROOM = 300_000
"""Bytes that are left for clients to fill."""


@pytest.fixture
def own(short_folder: Path) -> Iterator[redis.Redis]:
    """A client of a server of the test's own, which refuses when it is full."""
    server = start_valkey(short_folder, "--maxmemory-policy", "noeviction")
    with redis.Redis(unix_socket_path=str(short_folder / "valkey.sock")) as client:
        yield client
    server.kill()
    server.wait()


def leave(client: redis.Redis, room: int) -> None:
    """Let the server use so many bytes more, or less, than it does."""
    client.config_set("maxmemory", client.info("memory")["used_memory"] + room)  # type: ignore[index]


@pytest.mark.asks
def test_running_jobs_complete_and_deleted_ones_make_room_for_new_ones(
    own: redis.Redis, settings: Settings, tmp_path: Path, short_folder: Path
) -> None:
    url = f"unix://{short_folder}/valkey.sock?db=0"
    with serving(settings.model_copy(update={"redis_url": url}), tmp_path) as service:
        scopes = frozenset({Scope.read, Scope.write})
        _, token = service.parts.keys.create("test", scopes, requests_per_minute=10_000)
        service.http.headers["Authorization"] = f"Bearer {token}"
        running, cancelled = (service.claim(service.create(**PROMPT)["id"]) for _ in range(2))
        ended = [service.completed(**PROMPT) for _ in range(40)]
        until(lambda: own.exists("adaspa:swept_at"), "a janitor has swept: its scripts need memory too")
        leave(own, ROOM)
        while (answer := service.http.post("/videos", json=PROMPT)).is_success:
            pass
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
        assert int(answer.headers["retry-after"]) >= 1

        service.store.announce(service.parts.catalog.default, "worker-1")
        service.step(running, 1)
        assert service.complete(running).status == "completed"
        assert service.http.get(f"/videos/{running.job.id}/content").status_code == 200
        assert service.http.post(f"/videos/{cancelled.job.id}/cancel").json()["status"] == "in_progress"
        with pytest.raises(JobCancelled):
            service.step(cancelled, 1)
        service.store.release_cancelled(cancelled)
        for video_id in ended:
            assert service.http.delete(f"/videos/{video_id}").status_code == 200
            assert service.store.get(video_id) is None
        until(lambda: service.http.post("/videos", json=PROMPT).is_success, "there is room again")


def test_an_expired_job_is_removed_and_makes_room(
    own: redis.Redis, settings: Settings, tmp_path: Path, short_folder: Path
) -> None:
    changes = {"redis_url": f"unix://{short_folder}/valkey.sock?db=0", "result_ttl_seconds": 3600}
    with serving(settings.model_copy(update=changes), tmp_path) as service:
        until(lambda: own.exists("adaspa:swept_at"), "a janitor has swept: its scripts need memory too")
        ended = [service.completed(**PROMPT) for _ in range(40)]
        leave(own, 0)
        with pytest.raises(StoreUnavailable):
            create(service.store, record(service.store, ended[-1]).params)
        own.config_set("maxmemory", 0)  # a full one would not take the test's own changes either
        let_time_pass(own, 3601)
        leave(own, 0)
        until(lambda: not any(service.store.get(video_id) for video_id in ended), "they expire")
        until(lambda: service.http.post("/videos", json=PROMPT).is_success, "there is room again")


def test_every_end_is_taken(own: redis.Redis, params: Callable[..., JobParams]) -> None:
    store = JobStore(own, lease_seconds=600, max_attempts=1, queue_seconds=600)
    names = ("completed", "failed", "cancelled", "given back", "put off", "lost")
    leases = {name: claimed(store, create(store, params())) for name in names}
    waiting = create(store, params())
    store.requeue_expired()
    leave(own, -ROOM)
    with pytest.raises(StoreUnavailable):
        create(store, params())

    store.complete(leases["completed"], VIDEO, REPORT, {})
    store.fail(leases["failed"], FAILURE)
    store.request_cancel(leases["cancelled"].job.id)
    store.release_cancelled(leases["cancelled"])
    store.requeue_after_worker_error(leases["put off"], FAILURE)
    store.release(leases["given back"])
    own.config_set("maxmemory", 0)
    let_time_pass(own, 601)
    leave(own, -ROOM)
    assert store.requeue_expired() == []
    assert set(store.time_out()) == {waiting.id, leases["given back"].job.id}
    found = {name: record(store, lease.job.id) for name, lease in leases.items()}
    assert {name: job.status for name, job in found.items()} == {
        "completed": "completed",
        "cancelled": "cancelled",
        **dict.fromkeys(("failed", "given back", "put off", "lost"), "failed"),
    }


def test_all_that_keeps_going_what_is_there_is_taken_and_what_is_new_is_refused(
    own: redis.Redis, params: Callable[..., JobParams]
) -> None:
    store = JobStore(own, max_attempts=1)
    running, given_back, left = (claimed(store, create(store, params())) for _ in range(3))
    store.release(given_back)
    own.hset(f"adaspa:job:{left.job.id}", "inputs", "folder")
    own.sadd("adaspa:inputs:folder", left.job.id)
    store.fail(left, FAILURE)
    own.zadd("adaspa:awaited_inputs", {"late": 0})
    held = store.claim("demo", "worker-x", "before")
    waiting = create(store, params())
    assert held is not None and held.job.id == given_back.job.id
    store.requeue_expired()
    leave(own, -ROOM)
    spec = Catalog.load(None).default
    told, image = Progress(phase="denoising", step=1, steps=10, preview_step=1), b"RIFF" * 1000
    for new in (
        lambda: create(store, params()),
        lambda: store.await_inputs("another"),
        lambda: store.claim("demo", "worker-y"),
        lambda: store.report_preview(running, told, image),
    ):
        with pytest.raises(StoreUnavailable):
            new()
    store.ping()
    assert store.announce(spec, "worker-y") == {Priority.interactive: 1, Priority.bulk: 0}
    assert store.announced() == [spec] and store.load("demo").workers == 1
    store.hear(running)
    store.renew(running)
    store.report_progress(running, told)
    assert store.start_worker("worker-x") is None and record(store, held.job.id).status == "failed"
    untidy = {left.job.id, held.job.id}
    assert {*store.take_untidy()} == untidy
    for job_id in untidy:
        store.note_tidy(job_id)
    assert store.discard(left.job.id) and store.leave_inputs(left.job.id) == "folder"
    assert store.take_purgeable() == [left.job.id] and store.purge(left.job.id)
    assert store.take_lost_inputs() == ["late"]
    store.forget_inputs("late")
    own.config_set("maxmemory", 0)
    let_time_pass(own, 8 * 86400)
    leave(own, -ROOM)
    assert store.expire() == 1
    assert store.request_cancel(running.job.id) == "in_progress"
    store.release_cancelled(running)
    assert store.queue_position(waiting) == 1


def test_a_bell_that_is_refused_is_told_as_such(own: redis.Redis, short_folder: Path) -> None:
    """By a server that is full, takes no writes, or is gone: whoever rings goes on, and heartbeats ring later."""
    celery = make_celery(Settings(redis_url=f"unix://{short_folder}/valkey.sock?db=0"))
    ring(celery, "demo", Priority.bulk, 2)
    own.config_set("min-replicas-to-write", 1)
    with pytest.raises(QueueUnavailable, match="NOREPLICAS"):
        ring(celery, "demo", Priority.bulk)
    own.config_set("min-replicas-to-write", 0)
    leave(own, -1)
    with pytest.raises(QueueUnavailable, match="maxmemory"):
        ring(celery, "demo", Priority.bulk)
    own.config_set("maxmemory", 0)
    assert own.llen("generate.demo:bulk") == 2
    ring(celery, "demo", Priority.bulk)
    own.shutdown(nosave=True)
    with pytest.raises(QueueUnavailable):
        ring(celery, "demo", Priority.bulk)
    celery.close()


def test_an_event_is_delivered_once(own: redis.Redis, params: Callable[..., JobParams]) -> None:
    store, deliveries = JobStore(own), DeliveryStore(own)
    for receiver in ("one", "other"):
        job, _ = admit(store, params(), webhook_url=f"https://{receiver}.example.com/")
        store.request_cancel(job.id)
    leave(own, -ROOM)
    delivered, refused = deliveries.take(2)
    deliveries.note(delivered, Outcome.delivered, body="{}")
    deliveries.note(refused, Outcome.rejected, error="HTTP 500", body="{}", again_in=3600.0)
    assert deliveries.take(2) == []
    ((job_id, due),) = deliveries.ids("waiting")
    assert job_id == refused.job_id and due > time.time() + 1800, "not when the attempt would be taken for lost"
    assert DeliveryStore(own, kept=0).trim() == [refused.job_id]
