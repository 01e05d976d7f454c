"""A job's events over HTTP."""

import asyncio
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from adaspa_jobs.scripts import StoreUnavailable
from adaspa_jobs.settings import Settings
from adaspa_service.access.keys import Scope
from adaspa_service.errors import ApiError
from adaspa_service.gateway.app import create_app
from adaspa_service.gateway.events import OpenStreams
from adaspa_service.gateway.feed import BATCH, Follower
from claiming import FAILURE
from event_stream import following, parse
from running_gateway import Service, serving
from waiting import PATIENCE, until


@pytest.fixture
def no_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits is told of news alone, and not of its place in the queue, however long a busy machine takes."""
    monkeypatch.setattr("adaspa_service.gateway.feed.TICK_SECONDS", PATIENCE)


@pytest.mark.usefixtures("no_ticks")
def test_a_job_is_followed_from_its_beginning_to_its_end(service: Service) -> None:
    video_id = service.create(steps=10)["id"]
    with following(service, video_id) as events:
        first = next(events)
        assert (first["event"], first["data"]["status"], first["data"]["progress"]) == ("queued", "queued", 0)
        lease = service.claim(video_id)
        assert next(events)["event"] == "in_progress"
        for step in (1, 2):
            service.step(lease, step)
            data = next(events)["data"]
            assert (data["phase"], data["step"], data["steps"], data["step_kind"]) == ("denoising", step, 10, "sparse")
        service.complete(lease)
        rest = list(events)
    assert [event["event"] for event in rest] == ["completed"]
    assert rest[0]["data"] == service.http.get(f"/videos/{video_id}").json()


def test_a_client_of_http_1_0_follows_too(service: Service) -> None:
    """As proxies do that speak 1.0 to what is behind them, such as nginx by default: they know no chunks."""
    lease = service.claim(service.create()["id"])
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port or 0), timeout=PATIENCE) as wire, wire.makefile("rb") as answer:
        wire.send(f"GET /videos/{lease.job.id}/events HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        head = list(iter(answer.readline, b"\r\n"))
        assert b"connection: close\r\n" in head and not [line for line in head if line.startswith(b"transfer-encoding")]
        events = parse(line.decode().rstrip("\n") for line in answer)
        assert [next(events)["event"] for _ in range(2)] == ["queued", "in_progress"]
        service.complete(lease)
        assert [event["event"] for event in events] == ["completed"], "and there the connection ends"


def test_a_client_that_comes_again_goes_on_where_it_was(service: Service) -> None:
    lease = service.claim(service.create()["id"])
    video_id = lease.job.id
    service.step(lease, 1)
    with following(service, video_id) as events:
        seen = [next(events) for _ in range(2)]
    service.step(lease, 2)
    service.store.fail(lease, FAILURE)
    with following(service, video_id, seen[-1]["id"]) as events:
        rest = list(events)
    assert [event["event"] for event in seen + rest] == ["queued", "in_progress", "progress", "progress", "failed"]
    assert [event["data"]["step"] for event in rest] == [1, 2, 2]
    assert rest[-1]["data"]["error"]["code"] == "generation_failed"
    again = service.http.get(f"/videos/{video_id}/events", headers={"Last-Event-ID": rest[-1]["id"]})
    assert (again.status_code, again.content) == (204, b""), "an EventSource stops for good at this answer"


@pytest.mark.usefixtures("no_ticks")
def test_several_clients_see_the_same_events(service: Service) -> None:
    video_id = service.create()["id"]
    seen: list[list[Any]] = [[], [], []]

    def follow(into: list[Any]) -> None:
        with httpx.stream("GET", f"{service.url}/videos/{video_id}/events", timeout=PATIENCE) as response:
            into.extend(parse(response.iter_lines()))

    threads = [threading.Thread(target=follow, args=(into,)) for into in seen]
    for thread in threads:
        thread.start()
    lease = service.claim(video_id)
    for step in range(1, 6):
        service.step(lease, step)
    service.complete(lease)
    for thread in threads:
        thread.join()
    assert len(seen[0]) == 8 and seen[0] == seen[1] == seen[2]


def test_who_comes_later_is_told_at_once_of_more_than_is_read_at_once(service: Service) -> None:
    """Also when the gateway has read all that there is of the job, for others."""
    lease, steps = service.claim(service.create()["id"]), BATCH + 20
    with following(service, lease.job.id) as first:
        seen = [next(first) for _ in range(2)]
        for step in range(1, steps + 1):
            service.step(lease, step)
            seen.append(next(first))
        assert [event["data"]["step"] for event in seen] == [0, 0, *range(1, steps + 1)]
        with following(service, lease.job.id) as later:
            assert [next(later) for _ in seen] == seen


def test_a_requeue_is_an_event_too(service: Service) -> None:
    lease = service.claim(service.create()["id"])
    with following(service, lease.job.id) as events:
        service.store.client.zadd("adaspa:leases", {lease.job.id: 0}, xx=True)
        assert [next(events)["event"] for _ in range(3)] == ["queued", "in_progress", "queued"]
        service.complete(service.claim(lease.job.id))
        # It may be told its place before that, if this takes a while.
        assert [event["data"]["attempt"] for event in events if "attempt" in event["data"]] == [2, 2]


def test_who_followed_a_running_job_is_told_its_place_each_time_that_it_waits_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaspa_service.gateway.feed.TICK_SECONDS", 0.05)
    lease = service.claim(service.create()["id"])
    with following(service, lease.job.id) as events:
        assert [next(events)["event"] for _ in range(2)] == ["queued", "in_progress"]
        for attempt in (2, 3):
            service.store.release(lease)
            told = [next(events) for _ in range(2)]
            assert [event["event"] for event in told] == ["queued", "progress"]
            assert told[1]["data"]["queue_position"] == 1
            lease = service.claim(lease.job.id)
            assert next(events)["data"]["attempt"] == attempt


def test_streams_count_by_key_and_without_keys_by_address(service: Service) -> None:
    app: Any = service.server.config.app
    app.state.streams = OpenStreams(1)
    places = [httpx.HTTPTransport(local_address=f"127.0.0.{number}") for number in (1, 2)]
    here, there = (httpx.Client(base_url=service.url, transport=each, timeout=PATIENCE) for each in places)
    path = f"/videos/{service.create()['id']}/events"
    with here, there, here.stream("GET", path) as first:
        assert (first.status_code, here.get(path).status_code) == (200, 429)
        with there.stream("GET", path) as second:
            assert (second.status_code, there.get(path).status_code) == (200, 429)


@pytest.mark.asks
def test_streams_of_a_key_count_from_wherever_they_come(service: Service) -> None:
    app: Any = service.server.config.app
    app.state.streams = OpenStreams(1)
    with ExitStack() as opened:
        for _ in range(2):
            _, token = service.parts.keys.create("test", frozenset({Scope.read, Scope.write}))
            usual: dict[str, Any] = {"base_url": service.url, "timeout": PATIENCE}
            usual["headers"] = {"Authorization": f"Bearer {token}"}
            places = [httpx.HTTPTransport(local_address=f"127.0.0.{place}") for place in (1, 2)]
            here, there = (opened.enter_context(httpx.Client(transport=each, **usual)) for each in places)
            path = f"/videos/{here.post('/videos', json={'prompt': 'a'}).json()['id']}/events"
            assert opened.enter_context(here.stream("GET", path)).status_code == 200
            assert (here.get(path).status_code, there.get(path).status_code) == (429, 429)


@pytest.mark.parametrize(("connections", "streams"), [(1, 1), (2, 1), (7, 1), (8, 2), (2000, 500)])
def test_one_caller_may_follow_on_a_quarter_of_the_connections(
    settings: Settings, connections: int, streams: int
) -> None:
    counted = create_app(settings.model_copy(update={"max_connections": connections})).state.streams
    for _ in range(2):
        with ExitStack() as opened:
            for _ in range(streams):
                opened.enter_context(counted.another("a"))
            with pytest.raises(ApiError) as refused:
                opened.enter_context(counted.another("a"))
            assert (refused.value.status, refused.value.code) == (429, "too_many_streams")
            opened.enter_context(counted.another("b"))
        with pytest.raises(KeyError), counted.another("a"):
            raise KeyError("however it ends")


def test_a_deleted_job_ends_its_streams(service: Service) -> None:
    lease = service.claim(service.create()["id"])
    with following(service, lease.job.id) as events:
        service.http.delete(f"/videos/{lease.job.id}")
        service.store.release_cancelled(lease)
        assert [event["event"] for event in events] == ["queued", "in_progress", "cancelled"]
    assert service.http.get(f"/videos/{lease.job.id}/events").status_code == 404


def test_a_quiet_stream_has_heartbeats_and_ends_when_the_record_is_gone(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaspa_service.gateway.events.HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr("adaspa_service.gateway.feed.TICK_SECONDS", 0.05)
    video_id = service.create()["id"]
    with following(service, video_id) as events:
        assert [next(events)["event"], next(events)["data"]["queue_position"]] == ["queued", 1]
        with monkeypatch.context() as patched:
            patched.setattr("adaspa_service.gateway.events.read_events", None)  # without news, nobody reads
            assert next(events) == next(events) == {"comment": ": heartbeat"}
        service.store.client.delete(f"adaspa:job:{video_id}", f"adaspa:events:{video_id}")
        assert all("comment" in event for event in events)


def test_a_gateway_that_stops_ends_its_streams(settings: Settings, tmp_path: Path) -> None:
    with serving(settings, tmp_path) as service:
        video_id = service.create()["id"]
        with following(service, video_id) as events:
            last = next(events)["id"]
            service.stopping.set()
            assert [event for event in events if "id" in event] == [], "but for its place in the queue"
    with serving(settings, tmp_path) as other:
        lease = other.claim(video_id)
        with following(other, video_id, last) as events:
            assert next(events)["event"] == "in_progress"
            other.complete(lease)
            assert [event["event"] for event in events] == ["completed"]


@pytest.mark.parametrize("last", ["yesterday", "1", "-", "1-1-1", "99999999999999999999-0"])
def test_a_bad_event_id_is_refused(service: Service, last: str) -> None:
    response = service.http.get(f"/videos/{service.create()['id']}/events", headers={"Last-Event-ID": last})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "Last-Event-ID")


def test_a_job_that_has_ended_and_whose_events_are_gone_has_none_left(service: Service) -> None:
    video_id = service.completed()
    service.store.client.delete(f"adaspa:events:{video_id}")
    for last in ({}, {"Last-Event-ID": "1-0"}):
        with service.http.stream("GET", f"/videos/{video_id}/events", headers=last) as answer:
            assert answer.status_code == 204


def test_an_unknown_job_has_no_events(service: Service) -> None:
    assert service.http.get(f"/videos/video_{'0' * 32}/events").json()["error"]["code"] == "video_not_found"


def test_a_stream_that_is_left_gives_its_connection_back(service: Service) -> None:
    lease, left = service.claim(service.create()["id"]), 20
    with following(service, lease.job.id) as events:
        next(events)
        during = connections(service)
    for _ in range(left):  # threads that look at Redis at the same time have some more of their own
        with following(service, lease.job.id) as events:
            next(events)
    until(lambda: connections(service) < during + left, "no connection is left behind")


def test_who_is_told_of_an_outage_hears_of_it_though_a_tick_comes_first() -> None:
    async def told() -> None:
        follower = Follower()
        follower.wake(lost=StoreUnavailable("Redis is away"))
        follower.wake()
        await follower.wait()

    with pytest.raises(StoreUnavailable):
        asyncio.run(told())


@pytest.mark.parametrize("wakes", [(True, False), (False, True), (True, False, False), (True,), (False,)], ids=str)
def test_who_is_told_of_news_hears_of_them_once_though_a_tick_comes_first(wakes: tuple[bool, ...]) -> None:
    async def told() -> None:
        follower = Follower()
        assert await follower.wait(), "there may be news at first"
        for news in wakes:
            follower.wake(news=news)
        assert await follower.wait() == any(wakes)
        follower.wake()
        assert not await follower.wait()

    asyncio.run(told())


def test_clients_that_follow_share_a_connection_to_redis(service: Service) -> None:
    lease, before = service.claim(service.create()["id"]), connections(service)

    async def follow(http: httpx.AsyncClient, begun: list[str]) -> list[str]:
        async with http.stream("GET", f"/videos/{lease.job.id}/events") as answer:
            lines = answer.aiter_lines()
            begun.append(await anext(lines))
            return [line async for line in lines]

    async def follow_all() -> list[list[str]]:
        limits, begun = httpx.Limits(max_connections=None), list[str]()
        async with httpx.AsyncClient(base_url=service.url, timeout=PATIENCE, limits=limits) as http:
            following = [asyncio.create_task(follow(http, begun)) for _ in range(130)]
            await asyncio.to_thread(until, lambda: len(begun) == len(following), "all follow")
            assert connections(service) < before + 60, "threads' among them, of which a gateway has 40"
            await asyncio.to_thread(service.complete, lease)
            return await asyncio.gather(*following)

    assert all("event: completed" in lines for lines in asyncio.run(follow_all()))


def connections(service: Service) -> int:
    return len(service.store.client.client_list())  # type: ignore[arg-type]
