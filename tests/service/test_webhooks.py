"""Webhooks as a receiver sees them: real gateways, a real receiver that verifies with the public library."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from adaspa_api.report import JobError, LayerReport
from adaspa_api.words import ErrorCode
from adaspa_jobs.job import BOOTSTRAP_OWNER, OPEN_OWNER, JobParams
from adaspa_jobs.settings import Settings
from adaspa_jobs.store import JobStore
from adaspa_service.webhooks.attempt import Result
from adaspa_service.webhooks.deliverer import Deliverer
from adaspa_service.webhooks.deliveries import DeliveryStore, Outcome
from adaspa_service.webhooks.signing import secrets_of
from admitting import admit
from prometheus_text import value
from receiver import Answer, Receiver, close, drip, receiving
from running_gateway import REPORT, Service, serving
from waiting import until

SECRET, OTHER_SECRET = (
    "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cywgMzIgYnl0ZXM=",
    "whsec_b3RoZXIgc2VjcmV0IG9mIHRoZSB0ZXN0cywgMzI=",
)
QUICK = (0.05,) * 6


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Receivers on this machine are allowed, and attempts follow each other at once."""
    return changed(settings, webhook_http=True, webhook_networks="127.0.0.0/8", webhook_retry_seconds=QUICK)


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is looked at often, and a stopping gateway waits for nobody."""
    monkeypatch.setattr("adaspa_service.webhooks.deliverer.EVERY_SECONDS", 0.05)
    monkeypatch.setattr("adaspa_service.webhooks.deliverer.STOP_SECONDS", 0.1)


@pytest.fixture
def short_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody wants to wait long for a receiver that hangs. On a busy machine an honest one may exceed this too."""
    monkeypatch.setattr("adaspa_service.webhooks.attempt.TOTAL_SECONDS", 0.5)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def changed(settings: Settings, **changes: Any) -> Settings:
    """The settings with other values."""
    return Settings.model_validate(settings.model_dump() | changes)


def secret(service: Service) -> str:
    """What the operator gives to receivers."""
    return service.parts.deliveries.secrets()[0]


def dead(service: Service) -> list[str]:
    """Jobs whose event was given up."""
    return [job_id for job_id, _ in service.parts.deliveries.ids("dead", 100)]


def test_an_ended_jobs_event_is_delivered_once_and_verifies(service: Service, receiver: Receiver) -> None:
    asked = {"webhook_url": f"{receiver.url}/hooks/a;b?token=t&x=%20", "metadata": {"order": "17"}}
    lease = service.claim(service.create(**asked)["id"])
    for moment in ("created_at", "started_at"):  # it has waited, and has run for a while
        service.store.client.hincrby(f"adaspa:job:{lease.job.id}", moment, -1000)
    video_id = service.complete(lease).id
    until(lambda: receiver.calls, "the event comes")
    call = receiver.calls[0]
    event = call.verify(secret(service))
    assert set(event) == {"id", "object", "created_at", "type", "timestamp", "data"}
    assert (event["object"], event["created_at"]) == ("event", event["data"]["completed_at"])
    assert datetime.fromisoformat(event["timestamp"]).timestamp() == event["created_at"]
    assert event["timestamp"].endswith("Z")
    assert event["data"]["metadata"] == {"order": "17"}
    assert event["id"] == call.headers["webhook-id"]
    shown = service.http.get(f"/videos/{video_id}").json()
    shown["attention"]["layers"] = []
    assert (event["type"], event["data"]) == ("video.completed", shown)
    told = call.body.decode().replace("prompt_tokens", "")
    assert "webhook" not in told and "token" not in told
    assert call.path == "/hooks/a;b?token=t&x=%20"
    assert call.headers["host"] == receiver.url.removeprefix("http://")
    assert call.headers["content-type"] == "application/json"
    until(lambda: not service.parts.deliveries.counts().waiting, "it is noted")
    threading.Event().wait(0.3)
    assert len(receiver.calls) == 1 and service.parts.deliveries.get(video_id) is None


def test_each_end_has_its_event(service: Service, receiver: Receiver) -> None:
    failing = service.claim(service.create(webhook_url=receiver.url)["id"])
    service.store.fail(failing, JobError(code=ErrorCode.out_of_memory, message="too large"))
    waiting = service.create(webhook_url=receiver.url)["id"]
    service.http.post(f"/videos/{waiting}/cancel")
    running = service.claim(service.create(webhook_url=receiver.url)["id"])
    service.http.post(f"/videos/{running.job.id}/cancel")
    service.store.release_cancelled(running)
    service.completed()  # has no URL
    until(lambda: len(receiver.calls) == 3, "all events come")
    types = {call.video_id: call.event["type"] for call in receiver.calls}
    assert types == {
        failing.job.id: "video.failed",
        waiting: "video.cancelled",
        running.job.id: "video.cancelled",
    }
    failed = next(call.event["data"] for call in receiver.calls if call.video_id == failing.job.id)
    assert failed["error"] == {"code": "out_of_memory", "message": "too large"}


def test_a_batch_has_an_event_for_each_and_a_remix_its_own_url(service: Service, receiver: Receiver) -> None:
    body = {"prompt": "a red circle", "n": 3, "webhook_url": f"{receiver.url}/batch"}
    ids = [video["id"] for video in service.http.post("/videos", json=body).json()["data"]]
    remix = {"prompt": "a blue circle", "webhook_url": f"{receiver.url}/remix"}
    ids.append(service.http.post(f"/videos/{ids[0]}/remix", json=remix).json()["id"])
    ids.append(service.http.post(f"/videos/{ids[0]}/remix", json={"prompt": "a green circle"}).json()["id"])
    for video_id in ids:
        service.http.post(f"/videos/{video_id}/cancel")
    until(lambda: len(receiver.calls) == 4, "the events come")
    assert sorted((call.path, call.video_id) for call in receiver.calls) == [
        *(("/batch", video_id) for video_id in ids[:3]),
        ("/remix", ids[3]),
    ]


def test_a_job_that_lost_its_workers_has_its_event(settings: Settings, tmp_path: Path, receiver: Receiver) -> None:
    with serving(changed(settings, lease_seconds=0.2, max_attempts=1), tmp_path) as service:
        service.claim(service.create(webhook_url=receiver.url)["id"])
        until(lambda: receiver.calls, "the event comes")
        assert receiver.calls[0].event["data"]["error"]["code"] == "worker_lost"


def test_the_same_event_comes_again_until_it_is_taken(service: Service, receiver: Receiver) -> None:
    elsewhere = {"status": 307, "Location": f"{receiver.url}/elsewhere"}
    moved = {"status": 302, "Location": f"{receiver.url}/elsewhere"}
    receiver.answers = [500, close, elsewhere, moved, 404]
    began = int(time.time())
    service.completed(webhook_url=f"{receiver.url}/here")
    until(lambda: len(receiver.calls) == 6, "it is tried six times")
    assert {call.path for call in receiver.calls} == {"/here"}
    assert len(set(receiver.ids())) == 1 and len({call.body for call in receiver.calls}) == 1
    for call in receiver.calls:
        call.verify(secret(service))
        assert began <= int(call.headers["webhook-timestamp"]) <= call.at
    until(lambda: service.parts.deliveries.counts().ended == {"delivered": 1}, "it is noted")
    assert service.parts.deliveries.counts().attempts == {"rejected": 4, "unreachable": 1, "delivered": 1}


NEVER_ENDING: dict[str, Answer] = {
    "drips its status line": drip(each=b"H"),
    "drips headers": drip(b"HTTP/1.1 200 OK\r\n", each=b"X-A: b\r\n"),
    "never stops to begin": drip(each=b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "says nothing": lambda connection: connection.recv(1) and None,  # until the other side has had enough
}
UNREADABLE: dict[str, Answer] = {
    "never ends a header": drip(b"HTTP/1.1 200 OK\r\nX-A: ", each=b"a" * 65536, every=0.0),
    "speaks no HTTP": drip(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", each=b"?"),
    "sends a null": drip(b"HTTP/1.1 200 OK\r\nA: \0\r\n\r\n", each=b""),
    "switches protocols": {"status": 101, "Upgrade": "x"},
}


@pytest.mark.parametrize("answer", NEVER_ENDING.values(), ids=NEVER_ENDING)
@pytest.mark.usefixtures("short_attempts")
def test_a_receiver_that_never_answers_costs_a_bounded_attempt(
    service: Service, receiver: Receiver, answer: Answer
) -> None:
    receiver.answers = [answer]
    service.completed(webhook_url=receiver.url)
    until(lambda: service.parts.deliveries.counts().ended == {"delivered": 1}, "it is tried again")
    assert service.parts.deliveries.counts().attempts["timed_out"] >= 1 and len(set(receiver.ids())) == 1


@pytest.mark.parametrize("answer", UNREADABLE.values(), ids=UNREADABLE)
def test_a_receiver_that_cannot_be_understood_costs_one_attempt(
    service: Service, receiver: Receiver, answer: Answer
) -> None:
    receiver.answers = [answer]
    service.completed(webhook_url=receiver.url)
    until(lambda: service.parts.deliveries.counts().ended == {"delivered": 1}, "it is tried again")
    assert service.parts.deliveries.counts().attempts == {"unreachable": 1, "delivered": 1}


def test_an_endless_body_behind_a_good_status_is_not_read(service: Service, receiver: Receiver) -> None:
    receiver.answers = [
        drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", each=b"10000\r\n" + b"x" * 65536)
    ]
    service.completed(webhook_url=receiver.url)
    until(lambda: service.parts.deliveries.counts().attempts == {"delivered": 1}, "the status is enough")


def test_a_receiver_that_wants_no_more_gets_no_more(service: Service, receiver: Receiver) -> None:
    receiver.answers = [410]
    video_id = service.completed(webhook_url=receiver.url)
    until(lambda: dead(service) == [video_id], "it is given up")
    threading.Event().wait(0.3)
    assert len(receiver.calls) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_receiver_that_asks_to_wait_is_left_alone_so_long(service: Service, receiver: Receiver, status: int) -> None:
    receiver.answers = [{"status": status, "Retry-After": "1"}]
    service.completed(webhook_url=receiver.url)
    until(lambda: len(receiver.calls) == 2, "it is tried again")
    assert receiver.calls[1].at - receiver.calls[0].at >= 1


def test_an_event_is_given_up_at_the_end_of_the_schedule(service: Service, receiver: Receiver) -> None:
    receiver.answers = [500] * 20
    video_id = service.completed(webhook_url=receiver.url)
    until(lambda: dead(service) == [video_id], "it is given up")
    assert len(receiver.calls) == len(QUICK) + 1
    given_up = service.parts.deliveries.get(video_id)
    assert given_up is not None and given_up.error == "HTTP 500"
    receiver.answers = []
    assert service.parts.deliveries.redeliver(video_id)
    until(lambda: len(receiver.calls) == len(QUICK) + 2, "it is delivered after all")
    until(lambda: dead(service) == [] and not service.parts.deliveries.counts().waiting, "it is noted")
    assert len(set(receiver.ids())) == 1


def test_deliveries_go_on_after_a_restart_of_the_gateway(settings: Settings, tmp_path: Path) -> None:
    settings = changed(settings, webhook_retry_seconds=(1.0, 1.0))
    with receiving(500) as receiver:
        with serving(settings, tmp_path) as service:
            video_id = service.completed(webhook_url=receiver.url)
            until(lambda: service.parts.deliveries.counts().attempts, "one attempt failed")
        with serving(settings, tmp_path) as service:
            until(lambda: len(receiver.calls) == 2, "the next gateway tries again")
            assert len(set(receiver.ids())) == 1
            until(lambda: service.parts.deliveries.get(video_id) is None, "it is noted")


def test_an_attempt_that_a_stopping_gateway_breaks_off_is_made_again(settings: Settings, tmp_path: Path) -> None:
    settings = changed(settings, webhook_retry_seconds=())  # it was the last one
    with receiving() as receiver:
        receiver.answers = [receiver.hang]
        with serving(settings, tmp_path) as service:
            service.completed(webhook_url=receiver.url)
            until(lambda: receiver.calls, "an attempt is made")
        with serving(settings, tmp_path) as service:
            until(lambda: service.parts.deliveries.counts().ended == {"delivered": 1}, "the next gateway delivers it")
            assert len(receiver.calls) == 2 and len(set(receiver.ids())) == 1


def test_a_gateway_with_nothing_to_deliver_stops_without_another_look(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaspa_service.webhooks.deliverer.EVERY_SECONDS", 3600.0)
    with serving(settings, tmp_path) as service:
        assert service.http.get("/readyz").status_code == 200


def test_an_attempt_that_was_lost_with_its_gateway_is_made_again(
    settings: Settings, tmp_path: Path, store: JobStore, params: Any, receiver: Receiver
) -> None:
    job, _ = admit(store, params(), webhook_url=receiver.url)
    store.request_cancel(job.id)
    dying = DeliveryStore(store.client, attempt_seconds=0.3)
    assert [delivery.job_id for delivery in dying.take(10)] == [job.id]
    with serving(settings, tmp_path) as service:
        until(lambda: service.parts.deliveries.counts().ended == {"delivered": 1}, "another delivers it")
    assert receiver.ids() == [f"{job.id.replace('video_', 'evt_')}_cancelled"]


def test_another_end_after_a_power_cut_is_another_event(service: Service, receiver: Receiver) -> None:
    """A receiver that drops what it has had before drops no end but one that is told again."""
    lease, key = service.claim(service.create(webhook_url=receiver.url)["id"]), secret(service)
    written = {name: service.store.client.dump(name) for name in service.store.client.scan_iter()}

    def forget() -> None:
        with service.store.client.pipeline() as pipe:
            pipe.flushdb()
            for name, value in written.items():
                pipe.restore(name, 0, value)
            pipe.execute()

    for _ in range(2):
        service.store.request_cancel(lease.job.id)
        service.store.release_cancelled(lease)
        # Not only that it comes: noted after the power cut, its delivery would be that of the same end after it.
        until(lambda: service.parts.deliveries.counts().ended == {"delivered": 1}, "its event is taken")
        forget()
    service.complete(lease)
    until(lambda: len(receiver.calls) == 3, "the event of the other end comes")
    first, again, other = receiver.ids()
    assert first == again != other
    events = [call.verify(key) for call in receiver.calls]
    assert [event["type"] for event in events] == ["video.cancelled", "video.cancelled", "video.completed"]


def test_a_deleted_job_sends_nothing_more(service: Service, receiver: Receiver) -> None:
    waiting = service.create(webhook_url=receiver.url)["id"]
    service.http.delete(f"/videos/{waiting}")
    running = service.claim(service.create(webhook_url=receiver.url)["id"])
    service.http.delete(f"/videos/{running.job.id}")
    service.store.release_cancelled(running)
    threading.Event().wait(0.3)
    assert receiver.calls == []
    counts = service.parts.deliveries.counts()
    assert (counts.waiting, counts.dead) == (0, 0)


def test_a_job_that_is_deleted_between_two_attempts_sends_nothing_more(settings: Settings, tmp_path: Path) -> None:
    with receiving(500) as receiver, serving(changed(settings, webhook_retry_seconds=(3600.0,)), tmp_path) as service:
        video_id = service.completed(webhook_url=receiver.url)
        until(lambda: service.parts.deliveries.counts().attempts, "the first attempt failed")
        service.http.delete(f"/videos/{video_id}")
        assert not service.parts.deliveries.redeliver(video_id), "nothing is left to send"
        assert len(receiver.calls) == 1
        assert [key for key in service.store.client.scan_iter("adaspa:webhook*") if video_id.encode() in key] == []


def test_a_job_that_expires_before_its_event_is_delivered_loses_nothing(
    settings: Settings, tmp_path: Path, receiver: Receiver
) -> None:
    receiver.answers = [500]
    with serving(changed(settings, webhook_retry_seconds=(3600.0,)), tmp_path) as service:
        video_id = service.completed(webhook_url=receiver.url)
        until(lambda: service.parts.deliveries.counts().attempts, "the first attempt failed")
        service.store.client.zadd("adaspa:expiry", {video_id: 0}, xx=True)
        until(lambda: service.store.get(video_id) is None, "the record is gone")
        assert service.parts.deliveries.redeliver(video_id)
        until(lambda: len(receiver.calls) == 2, "the event comes nevertheless")
        assert receiver.calls[1].verify(secret(service))["data"]["id"] == video_id


def test_a_hanging_receiver_holds_up_nobody_else(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaspa_service.webhooks.attempt.TOTAL_SECONDS", 20.0)
    began = time.monotonic()
    with receiving() as one, receiving() as two, receiving() as three, receiving() as four, receiving() as quick:
        for hanging in (one, two, three, four):
            hanging.answers = [hanging.hang] * 100
            for _ in range(12):
                service.completed(webhook_url=hanging.url)
            until(lambda hanging=hanging: hanging.calls, "it hangs")
        for _ in range(20):
            service.completed(webhook_url=quick.url)
        until(lambda: len(quick.calls) == 20, "the other gets all of its own")
        most = max(len(hanging.calls) for hanging in (one, two, three, four))
        assert most <= 4 * (1 + (time.monotonic() - began) // 20), "at a time: a lane each"
        expired = service.completed()
        service.store.client.zadd("adaspa:expiry", {expired: 0}, xx=True)
        until(lambda: service.http.get(f"/videos/{expired}").status_code == 404, "the janitor is not held up either")


def test_an_owner_whose_receivers_all_hang_holds_up_no_other(store: JobStore, params: Callable[..., JobParams]) -> None:
    for number in range(40):
        job, _ = admit(store, params(), owner="one", webhook_url=f"https://host{number}.example.com/")
        store.request_cancel(job.id)
    job, _ = admit(store, params(), owner="other", webhook_url="https://hooks.example.com/")
    store.request_cancel(job.id)
    deliveries = DeliveryStore(store.client, owner_attempts=5)
    taken = deliveries.take(64)
    assert sorted(delivery.owner for delivery in taken) == ["one"] * 5 + ["other"]
    assert deliveries.take(64) == []
    deliveries.note(taken[0], Outcome.rejected, error="HTTP 500", body="{}", again_in=60)
    until(lambda: len(deliveries.take(64)) == 1, "the next one's turn comes")


def test_several_gateways_deliver_each_event_once(settings: Settings, tmp_path: Path, receiver: Receiver) -> None:
    with serving(settings, tmp_path) as one, serving(settings, tmp_path), serving(settings, tmp_path):
        made = [one.completed(webhook_url=receiver.url) for _ in range(40)]
        until(lambda: len(receiver.calls) >= len(made), "all events come")
        until(lambda: one.parts.deliveries.counts().ended == {"delivered": len(made)}, "all are noted")
        assert sorted(call.video_id for call in receiver.calls) == sorted(made)


def test_while_a_secret_is_replaced_both_verify(service: Service, receiver: Receiver) -> None:
    old = secret(service)
    new, *others = service.parts.deliveries.rotate_secret(keep_seconds=60)
    assert others == [old] and new != old
    service.completed(webhook_url=receiver.url)
    until(lambda: receiver.calls, "the event comes")
    for holding in (old, new):
        receiver.calls[0].verify(holding)
    assert service.parts.deliveries.rotate_secret(keep_seconds=0)[1:] == [old]


def test_secrets_of_the_settings_sign_instead(settings: Settings, tmp_path: Path, receiver: Receiver) -> None:
    with serving(changed(settings, webhook_secrets=f"{SECRET},{OTHER_SECRET}"), tmp_path) as service:
        service.completed(webhook_url=receiver.url)
        until(lambda: receiver.calls, "the event comes")
        for holding in (SECRET, OTHER_SECRET):
            receiver.calls[0].verify(holding)


def test_outcomes_are_counted(service: Service, receiver: Receiver) -> None:
    receiver.answers = [500, 410]
    service.completed(webhook_url=receiver.url)
    until(lambda: dead(service), "it is given up")
    service.completed(webhook_url=receiver.url)
    until(lambda: len(receiver.calls) == 3, "another is delivered")
    until(lambda: not service.parts.deliveries.counts().waiting, "it is noted")
    text = service.http.get("/metrics").text
    for outcome in ("rejected", "gone", "delivered"):
        assert value(text, "adaspa_webhook_attempts_total", outcome=outcome) == 1
    assert value(text, "adaspa_webhooks_ended_total", end="delivered") == 1
    assert value(text, "adaspa_webhooks_ended_total", end="dead") == 1
    assert value(text, "adaspa_webhooks_dead") == 1
    assert value(text, "adaspa_webhooks_waiting") == 0


def test_what_is_kept_is_bounded_in_number_and_time(service: Service, valkey: redis.Redis, receiver: Receiver) -> None:
    receiver.answers = [410, 410, 410]
    made = [service.completed(webhook_url=receiver.url) for _ in range(3)]
    until(lambda: len(dead(service)) == 3, "all are given up")
    order = [job_id for job_id, _ in reversed(service.parts.deliveries.ids("dead", 10))]
    assert sorted(order) == sorted(made)
    assert DeliveryStore(valkey, kept=2).trim() == [], "an event that was given up before is not dropped once more"
    assert sorted(dead(service)) == sorted(order[1:])
    assert 0 < valkey.pttl(f"adaspa:webhook:{order[1]}") <= 7 * 86400 * 1000  # type: ignore[operator]
    threading.Event().wait(0.01)
    DeliveryStore(valkey, dead_seconds=0.001).trim()
    assert dead(service) == []
    assert list(valkey.scan_iter("adaspa:webhook:*")) == []


def test_the_openapi_document_has_the_events(service: Service) -> None:
    document = service.http.get("/openapi.json").json()
    assert set(document["webhooks"]) == {"video.completed", "video.failed", "video.cancelled"}
    operation = document["webhooks"]["video.completed"]["post"]
    names = {item["name"] for item in operation["parameters"]}
    assert names == {"webhook-id", "webhook-timestamp", "webhook-signature"}
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/VideoEvent"}
    assert "422" not in operation["responses"]
    fields = document["paths"]["/v1/videos"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "webhook_url" in str(fields)


def test_what_is_sent_again_is_what_was_sent_first(settings: Settings, tmp_path: Path, receiver: Receiver) -> None:
    receiver.answers = [500]
    with serving(changed(settings, webhook_retry_seconds=(3600.0,)), tmp_path) as service:
        video_id = service.completed(webhook_url=receiver.url)

        def noted() -> bool:
            found = service.parts.deliveries.get(video_id)
            return found is not None and found.tried_at is not None

        until(noted, "the attempt is noted")
        kept = service.parts.deliveries.get(video_id)
    assert kept is not None and kept.record is None
    assert kept.body is not None and kept.body.encode() == receiver.calls[0].body


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [(None, 80, 120), (0.0, 80, 120), (7.0, 80, 120), (500.0, 500, 500), (1e9, 86400, 86400)],
)
def test_a_receiver_may_put_an_attempt_off_and_not_bring_it_on(asked: float | None, least: float, most: float) -> None:
    settings: Any = SimpleNamespace(webhook_retry_seconds=(100.0,))
    delivery: Any = SimpleNamespace(attempts=1)
    one = Deliverer(None, settings, None)  # type: ignore[arg-type]
    found = [one._again_in(delivery, Result(Outcome.rejected, retry_after=asked)) or -1.0 for _ in range(300)]
    assert least <= min(found) and max(found) <= most
    assert least == most or (min(found) < 85 and max(found) > 115), "what failed together does not come back together"


def test_each_key_has_a_secret_of_its_own_and_none_that_of_the_service(settings: Settings, store: JobStore) -> None:
    deliveries = DeliveryStore(store.client)
    for own in (settings, changed(settings, webhook_secrets=f"{SECRET},{OTHER_SECRET}")):
        owners = (OPEN_OWNER, "a", "b", BOOTSTRAP_OWNER)
        whole, *others = (secrets_of(owner, own, deliveries) for owner in owners)
        assert whole == (own.webhook_keys or deliveries.secrets())
        assert len({*whole, *(each for found in others for each in found)}) == len(owners) * len(whole)
        assert secrets_of("a", own, deliveries) == others[0], "it stays the same"


def test_the_secret_of_a_key_stays_what_its_receivers_were_given() -> None:
    """Whatever version signs: they were told it once."""
    (derived,) = secrets_of("0123456789ab", Settings(webhook_secrets=SECRET), None)  # type: ignore[arg-type]
    assert derived == "whsec_78vE3BNNyiGxpXVwlbWPW4R78ZHTmbOmF8xNx2wg2PM="


def test_an_event_has_no_part_for_each_layer(service: Service, receiver: Receiver) -> None:
    lease = service.claim(service.create(webhook_url=receiver.url)["id"])
    layers = [LayerReport(layer=at, density=[0.5], recall=[0.9]) for at in (0, 1)]
    service.complete(lease, report=REPORT.model_copy(update={"layers": layers}))
    until(lambda: receiver.calls, "the event comes")
    told = receiver.calls[0].event["data"]["attention"]
    assert told["layers"] == [] and told["density"] == REPORT.density
