"""Idempotency keys and the full queue, over HTTP."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from adaspa_api.words import JobStatus, Priority
from adaspa_jobs.catalog import Catalog, ModelSpec
from adaspa_jobs.counts import Load, QueueLoad
from adaspa_jobs.job import OPEN_OWNER, Job, JobParams, Progress
from adaspa_jobs.settings import Settings
from adaspa_jobs.store import JobStore
from adaspa_service.access.caller import Caller
from adaspa_service.gateway import state as gateway_state
from adaspa_service.gateway.admission import UNMEASURED_SECONDS, JobRequest, ring_for, seconds_left, submit
from adaspa_service.gateway.state import AppState, Recent
from adaspa_service.gateway.videos import accepted
from admitting import admit
from faults import FaultyBroker, FaultyRedis, Outside
from running_gateway import Service, serving

KEY = {"Idempotency-Key": "order-1"}


@pytest.fixture
def model() -> ModelSpec:
    """The catalog's entry of the demo model."""
    return Catalog.load(None).default


def test_the_same_key_and_body_give_the_first_job(service: Service) -> None:
    body = {"prompt": "a red circle", "model": "demo", "steps": 5}
    first = service.http.post("/videos", json=body, headers=KEY)
    assert "idempotent-replayed" not in first.headers
    video_id = first.json()["id"]
    service.claim(video_id)
    again = service.http.post("/v1/videos", json=body, headers=KEY)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    assert (again.json()["id"], again.json()["status"], again.json()["seed"]) == (
        video_id,
        "in_progress",
        first.json()["seed"],
    )
    form = {name: (None, str(value)) for name, value in body.items()}
    assert service.http.post("/videos", files=form, headers=KEY).json()["id"] == video_id
    assert service.messages() == 1


def test_the_same_key_with_another_body_is_refused(service: Service) -> None:
    service.http.post("/videos", json={"prompt": "a red circle"}, headers=KEY)
    refused = service.http.post("/videos", json={"prompt": "a blue circle"}, headers=KEY)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (422, "idempotency_key_reused", "Idempotency-Key")
    assert service.messages() == 1
    assert service.http.post("/videos", json={"prompt": "a blue circle"}, headers={"Idempotency-Key": "2"}).is_success


def test_a_refused_request_does_not_use_its_key_up(service: Service) -> None:
    assert service.http.post("/videos", json={"prompt": ""}, headers=KEY).status_code == 400
    assert service.http.post("/videos", json={"prompt": "a red circle"}, headers=KEY).status_code == 200


def test_a_full_queue_gives_the_expected_time_until_its_first_job_begins(
    settings: Settings, tmp_path: Path, model: ModelSpec
) -> None:
    with serving(settings.model_copy(update={"queue_cap": 1}), tmp_path) as service:

        def retry_after(**body: Any) -> int:
            refused = service.http.post("/videos", json={"prompt": "one too many"} | body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
            return int(refused.headers["retry-after"])

        running = [service.claim(service.create()["id"]) for _ in range(2)]
        service.create()
        assert retry_after() == 60, "nothing is known yet"
        service.store.client.rpush("adaspa:paces:demo", "3050", "4100", "100000")
        assert retry_after() == 60, "no worker runs"
        for lease in running:
            service.store.announce(model, str(lease.job.worker))
        assert 4000 <= retry_after() <= 4100, "both workers have just begun a job that takes 4100 s"
        service.store.client.zincrby("adaspa:running:demo", -3_000_000, running[0].job.id)
        assert 1000 <= retry_after() <= 1100, "one of them began 3000 s ago"
        service.create(priority="bulk")
        assert 1000 <= retry_after(priority="bulk") <= 1100
        service.complete(running[0])
        assert retry_after() == 1, "a worker is free"


def test_a_full_queue_is_priced_by_the_jobs_that_have_to_begin_first(
    settings: Settings, tmp_path: Path, model: ModelSpec, params: Callable[..., JobParams]
) -> None:
    with serving(settings.model_copy(update={"queue_cap": 10}), tmp_path) as service:
        for count, owner in ((10, "a"), (5, "b"), (3, "c"), (2, "d"), (2, "e")):  # each within its even part
            for _ in range(count):
                admit(service.store, params(), None, owner)
        service.store.client.rpush("adaspa:paces:demo", "10")
        service.store.announce(model, "worker")
        open_to_all = service.http.post("/videos", json={"prompt": "x", "n": 2})
        assert (open_to_all.status_code, open_to_all.headers["retry-after"]) == (429, "130"), "14 of 22 have to begin"
        one = service.http.post("/videos", json={"prompt": "x"})
        assert one.status_code == 200, "its own part of the queue"
        again = service.http.post("/videos", json={"prompt": "x"})
        assert (again.status_code, again.headers["retry-after"]) == (429, "130"), "14 of 23"


def test_a_replay_is_answered_even_when_the_queue_is_full(settings: Settings, tmp_path: Path) -> None:
    with serving(settings.model_copy(update={"queue_cap": 1}), tmp_path) as service:
        body = {"prompt": "a red circle"}
        first = service.http.post("/videos", json=body, headers=KEY).json()
        assert service.http.post("/videos", json=body, headers=KEY).json()["id"] == first["id"]


def test_a_full_queue_stores_nothing_and_takes_jobs_again_later(settings: Settings, tmp_path: Path) -> None:
    with serving(settings.model_copy(update={"queue_cap": 1}), tmp_path) as service:
        first = service.create()["id"]
        refused = service.http.post("/videos", json={"prompt": "one too many"})
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert int(refused.headers["retry-after"]) >= 1, "also when nothing was measured yet"
        assert [video["id"] for video in service.http.get("/videos").json()["data"]] == [first]
        assert service.messages() == 1
        service.claim(first)
        assert service.create()["queue_position"] == 1


def test_an_answer_waits_for_one_call_to_redis_and_seldom_for_how_busy_the_model_is(
    settings: Settings, valkey_socket: Path, params: Callable[..., JobParams], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_state, "RECENT_SECONDS", 600.0)
    outside, parts = Outside(), AppState.of(settings)
    store = JobStore(FaultyRedis(valkey_socket, outside))
    parts = replace(
        parts,
        store=store,
        loads=Recent(store.load),
        times=Recent(store.times),
        celery=FaultyBroker(parts.celery, outside),
    )
    calls = []
    for place in (1, 3):
        before = outside.calls
        admitted = submit(
            parts, Caller(OPEN_OWNER), JobRequest(parts.catalog.default, [params(), params()], None), None
        )
        shown = accepted(parts, admitted.jobs, admitted.positions).data
        assert [video.queue_position for video in shown] == [place, place + 1]
        answered = outside.calls
        ring_for(parts, admitted)
        calls.append((answered - before, outside.calls - answered))
    assert calls == [(1 + 2, 2), (1, 2)], "one call admits both, each has a bell; load and times are not a second old"


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ((3.0, 2, None, 2.0), 10.0),  # one of 2 units before it, and its own 3, of 2 s each
        ((0.5, 1, None, 2.0), 1.0),
        ((3.0, None, None, 2.0), 6.0),  # it runs
        ((3.0, None, 1.25, 2.0), 1.25),  # and tells itself
        ((3.0, 2, None, None), UNMEASURED_SECONDS),
    ],
)
def test_whoever_has_too_many_jobs_is_told_when_one_of_them_is_expected_to_end(
    params: Callable[..., JobParams], asked: tuple[float, int | None, float | None, float | None], seconds: float
) -> None:
    cost, position, eta, pace = asked
    queue = QueueLoad(waiting=3, cost=6.0, oldest_seconds=0.0, workers=1, elapsed=[])
    idle = QueueLoad(waiting=0, cost=0.0, oldest_seconds=0.0, workers=1, elapsed=[])
    load = Load(1, pace, 0, {Priority.interactive: queue, Priority.bulk: idle}, 0.2)
    told = Progress(eta_seconds=eta)
    job = Job(id="video_x", status=JobStatus.queued, params=params(), cost=cost, created_at=0, progress=told)
    assert seconds_left(load, job, position) == seconds
