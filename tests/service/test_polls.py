"""Polls are answered at once where that is possible, and by the route where not: no client can tell which."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from adaspa_jobs.job import SCHEMA_VERSION
from adaspa_jobs.settings import Settings
from adaspa_service.access.keys import Scope
from adaspa_service.gateway import polls
from adaspa_service.gateway import state as gateway_state
from claiming import FAILURE
from pydantic import SecretStr
from running_gateway import REPORT, Service, serving

OWN = ("date", "x-request-id")
"""Headers that no two answers share."""


@contextmanager
def by_the_route() -> Iterator[None]:
    """Leave all polls to the route."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(polls, "POLL", re.compile("(?!)"))
        yield


def polled(service: Service, video_id: str, **headers: str) -> tuple[Any, ...]:
    """What a poll gets by both ways."""

    def ask() -> tuple[Any, ...]:
        answer = httpx.get(f"{service.url}/v1/videos/{video_id}", headers=headers)
        return answer.status_code, answer.json(), {each for each in answer.headers.items() if each[0] not in OWN}

    for known in (service.parts.loads, service.parts.times):
        known._found.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gateway_state, "RECENT_SECONDS", 600.0)  # how busy the model is, both say of one moment
        at_once = ask()
        with by_the_route():
            assert at_once == ask()
    return at_once


def running(service: Service, video_id: str) -> None:
    service.step(service.claim(video_id), 3)


def ended(service: Service, video_id: str) -> None:
    service.complete(service.claim(video_id))


def failed(service: Service, video_id: str) -> None:
    service.store.fail(service.claim(video_id), FAILURE)


def requeued(service: Service, video_id: str) -> None:
    lease = service.claim(video_id)
    service.step(lease, 3)
    service.store.release(lease)


def deleted_while_it_runs(service: Service, video_id: str) -> None:
    service.claim(video_id)
    service.http.delete(f"/videos/{video_id}")


def of_a_later_version(service: Service, video_id: str) -> None:
    later = {"schema_version": SCHEMA_VERSION + 1, "params": '{"steps": 8}'}
    service.store.client.hset(f"adaspa:job:{video_id}", mapping=later)


STATES: dict[str, tuple[Callable[[Service, str], Any], int, str | None]] = {
    "waits": (lambda *_: None, 200, "queued"),
    "runs": (running, 200, "in_progress"),
    "waits again": (requeued, 200, "queued"),
    "completed": (ended, 200, "completed"),
    "failed": (failed, 200, "failed"),
    "cancelled": (lambda service, video_id: service.store.request_cancel(video_id), 200, "cancelled"),
    "deleted": (deleted_while_it_runs, 404, None),
    "gone": (lambda service, video_id: service.store.client.delete(f"adaspa:job:{video_id}"), 404, None),
    "damaged": (
        lambda service, video_id: service.store.client.hset(f"adaspa:job:{video_id}", "params", "{oops"),
        *(410, None),
    ),
    "of a later version": (of_a_later_version, 503, None),
}


@pytest.mark.parametrize("state", STATES)
def test_a_job_in_any_state_is_the_same_by_both_ways(service: Service, state: str) -> None:
    lease = service.claim(service.create(quality="fast")["id"])
    service.store.complete(lease, {}, REPORT, {"denoising": 2.0, "decoding": 1.0})
    service.store.announce(service.parts.catalog.default, "worker")
    service.create()
    change, wanted, shown = STATES[state]
    video_id = service.create(quality="fast", metadata={"order": "17"})["id"]
    change(service, video_id)
    place = 1 if state == "waits again" else 2
    status, video, headers = polled(service, video_id)
    assert (status, video.get("status")) == (wanted, shown)
    assert ("openai-poll-after-ms" in dict(headers)) == (shown in ("queued", "in_progress"))
    if shown == "queued":
        assert (video["queue_position"], video["workers"], video["estimated_seconds"]) == (place, 1, 3.0)
    assert polled(service, f"video_{0:032x}")[0] == polled(service, f"{video_id}0")[0] == 404


@pytest.mark.asks
def test_whoever_asks_gets_the_same_by_both_ways(service: Service) -> None:
    keys, scopes = service.parts.keys, frozenset({Scope.read, Scope.write})
    video_id, at_first = service.create()["id"], f"Bearer {service.token}"
    assert polled(service, video_id, Authorization=at_first)[0] == 200
    assert polled(service, video_id)[0] == 401
    _, token = keys.create("one", scopes)
    made = service.http.post("/videos", json={"prompt": "x"}, headers={"Authorization": f"Bearer {token}"})
    own = made.json()["id"]
    others, revoked, old, late = (keys.create(name, scopes) for name in ("others", "revoked", "old", "late"))
    writer = keys.create("writer", frozenset({Scope.write}))
    keys.revoke(revoked[0].id)
    service.store.client.hset(f"adaspa:key:{old[0].id}", "expires_at", 1)
    late_token = keys.rotate(late[0].id, 3600)
    for given, wanted in (
        *((f"{scheme} {token}", 200) for scheme in ("Bearer", "bearer", "BEARER")),
        *((f"Basic {token}", 401), ("Bearer", 401), (token, 401), (f"Bearer {token}x", 401)),
        (f"Bearer {others[1]}", 404),
        *((f"Bearer {revoked[1]}", 401), (f"Bearer {old[1]}", 401), (f"Bearer {writer[1]}", 403), (at_first, 401)),
        *((f"Bearer {each}", 404) for each in (late[1], late_token)),
    ):
        assert polled(service, own, Authorization=given)[0] == wanted, given
    assert polled(service, own)[0] == polled(service, video_id)[0] == 401


def test_pages_of_other_sites_get_the_same_by_both_ways(service: Service) -> None:
    video_id = service.create()["id"]
    for headers, wanted in (
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": service.url}, 200),
    ):
        assert polled(service, video_id, **headers)[0] == wanted


def test_most_polls_are_answered_at_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a thread, in which the route would look for itself."""
    video_id = service.create()["id"]
    assert service.http.get(f"/videos/{video_id}").is_success

    def look(_: str) -> None:
        raise AssertionError("it is left to the route")

    monkeypatch.setattr(service.store, "look", look)
    for prefix in ("", "/v1"):
        assert service.http.get(f"{prefix}/videos/{video_id}").json()["status"] == "queued"
    metrics = service.http.get("/metrics").text
    assert 'route="/v1/videos/{video_id}",status="200"' in metrics and video_id not in metrics


def test_a_redis_that_has_forgotten_its_scripts_fails_no_poll(service: Service, valkey: redis.Redis) -> None:
    """As one that was started again."""
    video_id = service.create()["id"]
    for _ in range(2):
        valkey.script_flush()
        assert service.http.get(f"/videos/{video_id}").json()["queue_position"] == 1


def test_the_bootstrap_key_polls_too(settings: Settings, tmp_path: Path) -> None:
    own = settings.model_copy(update={"bootstrap_key": SecretStr("b" * 40), "open_access": None})
    with serving(own, tmp_path) as service:
        service.http.headers["Authorization"] = f"Bearer {'b' * 40}"
        video_id = service.create()["id"]
        assert polled(service, video_id, Authorization=f"Bearer {'b' * 40}")[0] == 200
        assert polled(service, video_id, Authorization=f"Bearer {'b' * 39}")[0] == 401
