"""A deliverer whose Redis fails it between any two calls, whose records are broken, or which is told to stop: what it
says, and what is made again."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from adaspa_jobs.job import JobParams
from adaspa_jobs.settings import Settings
from adaspa_jobs.store import JobStore
from adaspa_service.webhooks import deliverer, deliveries
from adaspa_service.webhooks.addresses import RESOLVE_SECONDS, Addresses
from adaspa_service.webhooks.attempt import TOTAL_SECONDS, Sender
from adaspa_service.webhooks.deliverer import Deliverer
from adaspa_service.webhooks.deliveries import Delivery, DeliveryStore, State
from adaspa_service.webhooks.signing import headers
from admitting import admit
from faults import Fault, FaultyRedis, Outside
from receiver import Receiver, receiving
from waiting import PATIENCE, until

Params = Callable[..., JobParams]
SETTINGS = Settings(webhook_networks="127.0.0.0/8", webhook_retry_seconds="60")


@dataclass
class Stage:
    """A deliverer whose calls to Redis may fail, its receiver, and the deliveries as they are seen without faults."""

    store: JobStore
    params: Params
    outside: Outside
    one: Deliverer
    receiver: Receiver
    addresses: Addresses

    @property
    def own(self) -> DeliveryStore:
        return DeliveryStore(self.store.client)

    def owed(self) -> str:
        """A job whose event waits."""
        port = self.receiver.url.rpartition(":")[2]
        job, _ = admit(self.store, self.params(), webhook_url=f"http://hooks.example.com:{port}/a?token=secret")
        self.store.request_cancel(job.id)
        return job.id

    def attempt(self, addresses: Addresses | None = None) -> None:
        """Make one attempt."""
        (delivery,) = self.own.take(1)

        async def deliver() -> None:
            await self.one._deliver(Sender(addresses or self.addresses), delivery)

        asyncio.run(deliver())


@pytest.fixture
def stage(store: JobStore, params: Params, valkey_socket: Path) -> Iterator[Stage]:
    outside, known = Outside(), Addresses(SETTINGS.webhook_networks, lambda *_: ["127.0.0.1"])
    with receiving() as receiver, FaultyRedis(valkey_socket, outside) as client:
        one = Deliverer(DeliveryStore(client), SETTINGS, known)
        yield Stage(store, params, outside, one, receiver, known)
        known.close()


def test_a_redis_that_is_away_is_told_of_once_each_time(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    async def look() -> None:
        assert await stage.one._take(5) == []

    for times, away in enumerate((3, 1, 2), 1):
        for _ in range(away):
            with stage.outside.struck_by(Fault(1, "before", "cut")):
                asyncio.run(look())
        asyncio.run(look())
        assert [record.levelname for record in caplog.records] == ["WARNING"] * times
    stage.store.client.set("adaspa:webhook_lanes", "no set")
    asyncio.run(look())
    assert "webhooks: unexpected error" in caplog.text, "and it goes on"


@pytest.mark.parametrize(("at", "when"), [(1, "before"), (1, "after"), (2, "before"), (2, "after")])
def test_an_attempt_that_redis_fails_is_made_again_and_never_forgotten(
    stage: Stage, caplog: pytest.LogCaptureFixture, at: int, when: Any
) -> None:
    """First the secrets are read, then what came of it is noted."""
    job_id, own = stage.owed(), stage.own
    with stage.outside.struck_by(Fault(at, when, "cut")):
        stage.attempt()
    sent, noted = at > 1, (at, when) == (2, "after")
    assert len(stage.receiver.calls) == sent
    assert own.counts().attempts == ({"delivered": 1} if noted else {})
    assert (own.get(job_id) is None) == noted
    assert ("will be sent again" if sent else "webhook delayed") in caplog.text
    assert {record.levelno for record in caplog.records} <= {logging.INFO, logging.WARNING}
    if not noted:
        left = own.get(job_id)
        assert left is not None and (left.attempts, left.tried_at) == (1, None)
        assert own.take(1) == [], "until it is taken for lost"


@pytest.mark.parametrize("record", ["nonsense", "[]", '["status"]', '["status", "dreaming"]'])
def test_an_event_that_cannot_be_made_is_told_of_and_stops_no_other(
    stage: Stage, caplog: pytest.LogCaptureFixture, record: str
) -> None:
    broken, own = stage.owed(), stage.own
    stage.store.client.hset(f"adaspa:webhook:{broken}", "record", record)
    states: tuple[State, State] = ("waiting", "dead")
    for attempts, state in enumerate(states, 1):
        stage.attempt()
        left = own.get(broken)
        assert left is not None and (left.attempts, left.record, left.body) == (attempts, record, None)
        assert left.error and [job_id for job_id, _ in own.ids(state)] == [broken]
        if state == "waiting":
            own.redeliver(broken)
    assert (
        own.counts().attempts == {"broken": 2} and caplog.text.count("unexpected error in its webhook\nTraceback") == 2
    )
    other = stage.owed()
    stage.attempt()
    assert [call.video_id for call in stage.receiver.calls] == [other]


def test_a_mistake_of_ours_is_no_receivers_fault(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("adaspa_service.webhooks.attempt.judge", lambda *_: 1 / 0)
    stage.owed()
    stage.attempt()
    assert stage.own.counts().attempts == {"broken": 1} and "ZeroDivisionError" in caplog.text


def test_the_log_says_what_comes_next_and_no_secret_of_a_url(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stage.receiver.answers = [500, 500]
    job_id, at = stage.owed(), f"hooks.example.com:{stage.receiver.url.rpartition(':')[2]}"
    for level, words in (
        ("WARNING", "at attempt 1: HTTP 500; again in "),
        ("ERROR", "at attempt 2: HTTP 500; given up"),
    ):
        stage.attempt()
        assert caplog.records[-1].levelname == level
        assert f"{job_id}: video.cancelled not delivered to {at} {words}" in caplog.records[-1].getMessage()
        stage.own.redeliver(job_id)
    stage.attempt()
    last = caplog.records[-1]
    assert last.levelname == "INFO" and f"{job_id}: video.cancelled delivered to {at} at attempt 1" in last.getMessage()
    assert "secret" not in caplog.text
    assert {call.headers["user-agent"].partition("/")[0] for call in stage.receiver.calls} == {"adaspa-serve"}


def test_each_attempt_is_signed_anew_with_the_secrets_that_hold_then(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event keeps its id and body; a receiver refuses a time long ago."""
    stage.receiver.answers = [500] * 3
    job_id, own = stage.owed(), stage.own
    times = [1_900_000_000.9, 1_900_000_100.0, 1_900_086_500.5]
    for at, keep, holding in zip(times, (None, 1000.0, 0.0), (1, 2, 2), strict=True):
        if keep is not None:
            own.rotate_secret(keep)
        monkeypatch.setattr(deliverer, "time", SimpleNamespace(time=lambda at=at: at))
        stage.attempt()
        call, secrets = stage.receiver.calls[-1], own.secrets()
        assert call.headers["webhook-timestamp"] == str(int(at))
        ours = headers(call.headers["webhook-id"], int(at), call.body, secrets)
        assert {name: call.headers[name] for name in ours} == ours
        assert call.headers["webhook-signature"].count("v1,") == len(secrets) == holding
        own.redeliver(job_id)
    first, *others = stage.receiver.calls
    assert {(call.body, call.headers["webhook-id"]) for call in others} == {(first.body, first.headers["webhook-id"])}


def test_a_long_error_is_kept_short(stage: Stage) -> None:
    def resolve(host: str, port: int) -> list[str]:
        raise OSError("no " * 1000)

    job_id, known = stage.owed(), Addresses((), resolve)
    stage.attempt(known)
    known.close()
    left = stage.own.get(job_id)
    assert left is not None and 200 < len(left.error) <= deliverer.MAX_ERROR_CHARS


def test_what_is_under_way_when_it_stops_is_waited_for_and_nothing_more_begins(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliverer, "STOP_SECONDS", PATIENCE)
    monkeypatch.setattr(deliverer, "EVERY_SECONDS", 0.05)
    released, heard, is_set = threading.Event(), threading.Event(), stage.one._stopping.is_set
    before = {*threading.enumerate()}

    def slow(connection: socket.socket) -> None:
        released.wait()
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    def looked() -> bool:
        if is_set():
            heard.set()
        return heard.is_set()

    monkeypatch.setattr(stage.one._stopping, "is_set", looked)
    stage.receiver.answers = [slow]
    first = stage.owed()
    stage.one.__enter__()
    until(lambda: stage.receiver.calls, "an attempt is under way")
    stopping = threading.Thread(target=stage.one.__exit__)
    stopping.start()
    until(heard.is_set, "it hears that it is to stop")
    second = stage.owed()
    assert stopping.is_alive(), "it waits"
    released.set()
    stopping.join()
    assert [call.video_id for call in stage.receiver.calls] == [first]
    assert stage.own.counts().attempts == {"delivered": 1}
    assert [job_id for job_id, _ in stage.own.ids("waiting")] == [second]

    def left() -> list[threading.Thread]:
        new = {*threading.enumerate()} - before
        return [each for each in new if each.name.startswith(("webhooks", "resolve"))]

    until(lambda: not left(), "no thread is left", 60)


def test_nothing_to_deliver_is_looked_for_no_more_often_than_it_says(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Semaphore(0)

    def take(limit: int) -> list[Delivery]:
        looked.release()
        return []

    monkeypatch.setattr(stage.one._store, "take", take)
    monkeypatch.setattr(deliverer, "EVERY_SECONDS", 3600.0)
    with stage.one:
        assert looked.acquire(timeout=PATIENCE)
        assert not looked.acquire(timeout=0.1)


def test_an_attempt_is_over_before_it_is_taken_for_lost() -> None:
    """Or another gateway would make the next beside it."""
    assert RESOLVE_SECONDS < TOTAL_SECONDS
    assert TOTAL_SECONDS + deliverer.STOP_SECONDS < deliveries.ATTEMPT_SECONDS
