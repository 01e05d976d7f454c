"""``adaspa webhooks``, as an operator runs it, beside a running gateway and a real receiver."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from adaspa_command import adaspa
from adaspa_jobs.settings import Settings
from adaspa_service.access.keys import Scope
from pydantic import ValidationError
from receiver import Receiver, receiving
from running_gateway import Service, serving
from standardwebhooks import WebhookVerificationError
from waiting import until

SECRET = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cywgMzIgYnl0ZXM="
Command = Callable[..., str]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Receivers on this machine are allowed, and there is one attempt after the first, at once."""
    changes = {"webhook_http": True, "webhook_networks": "127.0.0.0/8", "webhook_retry_seconds": (0.05,)}
    return Settings.model_validate(settings.model_dump() | changes)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def webhooks(redis_url: str) -> Command:
    """Runs a command; gives what it prints, on standard error when it has to fail."""

    def run(*arguments: object, status: int = 0, **variables: str) -> str:
        done = adaspa("webhooks", *arguments, **{"ADASPA_REDIS_URL": redis_url, **variables})
        assert done.returncode == status, done.stderr
        return (done.stderr if status else done.stdout).strip()

    return run


def test_a_dead_event_is_seen_and_sent_again(service: Service, receiver: Receiver, webhooks: Command) -> None:
    receiver.answers = [500, 500, 410, 500]
    video_id, other = [service.completed(webhook_url=f"{receiver.url}/?token=t") for _ in range(2)]
    until(lambda: service.parts.deliveries.counts().dead == 2, "both are given up")
    listed = {item["video_id"]: item for item in json.loads(webhooks("list", "--state", "dead", "--json"))}
    assert set(listed) == {video_id, other}
    assert json.loads(webhooks("list", "--state", "waiting", "--json")) == []
    assert {item["error"].split(":")[0] for item in listed.values()} == {"HTTP 500", "HTTP 410"}
    table = webhooks("list")
    assert video_id in table and "token" not in table
    shown = json.loads(webhooks("show", video_id))
    assert (shown["url"], shown["type"]) == (f"{receiver.url}/?token=t", "video.completed")
    assert shown["body"]["data"]["id"] == video_id
    before = len(receiver.calls)
    assert webhooks("redeliver", video_id) == "sending 1 event"
    until(lambda: len(receiver.calls) == before + 1, "it is sent")
    assert (receiver.calls[-1].video_id, receiver.calls[-1].headers["webhook-id"]) == (video_id, shown["webhook_id"])
    assert webhooks("redeliver", "--all-dead") == "sending 1 event"
    until(lambda: service.parts.deliveries.counts().ended.get("delivered") == 2, "the other is delivered too")
    assert json.loads(webhooks("list", "--json")) == []


def test_a_damaged_event_hides_no_other(service: Service, receiver: Receiver, webhooks: Command) -> None:
    receiver.answers = [410] * 4
    damaged = [service.completed(webhook_url=receiver.url) for _ in range(3)]
    whole = service.completed(webhook_url=receiver.url)
    until(lambda: service.parts.deliveries.counts().dead == 4, "all are given up")
    service.store.client.hset(f"adaspa:webhook:{damaged[0]}", "attempts", "many")
    service.store.client.hdel(f"adaspa:webhook:{damaged[1]}", "type")
    service.store.client.delete(f"adaspa:webhook:{damaged[2]}")
    listed = {item["video_id"]: item for item in json.loads(webhooks("list", "--json"))}
    assert set(listed) == {whole, *damaged[:2]} and listed[whole]["error"].startswith("HTTP 410")
    for video_id, problem in zip(damaged, ("attempts is no number", "no type"), strict=False):
        told = listed[video_id]
        assert told["error"].startswith(f"damaged record: {problem}") and told["attempts"] is None
        assert f"{video_id}: the record of its event in Redis is damaged: {problem}" in webhooks(
            "show", video_id, status=1
        )
    assert "damaged record: no type" in webhooks("list")
    assert "no undelivered event" in webhooks("show", damaged[2], status=1)


def test_a_damaged_event_that_waits_is_given_up_and_told(
    settings: Settings, tmp_path: Path, receiver: Receiver, webhooks: Command, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [500] * 3
    patient = settings.model_copy(update={"webhook_retry_seconds": (3600.0,)})
    with serving(patient, tmp_path) as service:
        damaged, gone, whole = (service.completed(webhook_url=receiver.url) for _ in range(3))
        deliveries = service.parts.deliveries
        until(lambda: deliveries.counts().attempts == {"rejected": 3}, "all wait for their next attempt")
        assert 'adaspa_webhooks_ended_total{end="damaged"} 0.0' in service.http.get("/metrics").text
        client, waiting = service.store.client, [deliveries.get(video_id) for video_id in (damaged, gone)]
        client.hdel(f"adaspa:webhook:{damaged}", "url")
        client.delete(f"adaspa:webhook:{gone}")
        listed = {item["video_id"]: item for item in json.loads(webhooks("list", "--json"))}
        assert (listed[damaged]["state"], listed[damaged]["error"]) == ("waiting", "damaged record: no url")
        for each in waiting:
            assert each is not None
            client.zadd(f"adaspa:webhook_lane:{each.lane}", {each.job_id: 0})  # its time comes
            client.zadd("adaspa:webhook_lanes", {each.lane: 0})
        until(lambda: deliveries.counts().ended == {"damaged": 2}, "they are given up")
        listed = {item["video_id"]: item for item in json.loads(webhooks("list", "--json"))}
        assert {video_id: item["state"] for video_id, item in listed.items()} == {
            damaged: "dead",
            gone: "dead",
            whole: "waiting",
        }
        assert listed[damaged]["error"] == "damaged record: no url"
        assert (deliveries.counts().dead, deliveries.counts().waiting) == (2, 1)
        assert 'adaspa_webhooks_ended_total{end="damaged"} 2.0' in service.http.get("/metrics").text
        for video_id in (damaged, gone):
            told = [each for each in caplog.records if each.getMessage().startswith(f"{video_id}: webhook given up")]
            assert [each.levelname for each in told] == ["ERROR"]
            assert 0 < client.ttl(f"adaspa:webhook:{video_id}") <= 7 * 86400
            refused = webhooks("redeliver", video_id, status=1)
            assert f"{video_id}: the record of its event in Redis is damaged" in refused
        refused = webhooks("redeliver", "--all-dead", status=1)
        assert damaged in refused and gone in refused and whole not in refused


def test_a_waiting_event_is_sent_without_waiting(
    settings: Settings, tmp_path: Path, receiver: Receiver, webhooks: Command
) -> None:
    receiver.answers = [500]
    patient = settings.model_copy(update={"webhook_retry_seconds": (3600.0,)})
    with serving(patient, tmp_path) as service:
        video_id = service.completed(webhook_url=receiver.url)
        until(lambda: service.parts.deliveries.counts().attempts, "an attempt failed")
        (listed,) = json.loads(webhooks("list", "--json"))
        assert (listed["state"], listed["attempts"], listed["error"]) == ("waiting", 1, "HTTP 500")
        webhooks("redeliver", video_id)
        until(lambda: service.parts.deliveries.get(video_id) is None, "it is delivered")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("show", "video_1"), 1, "adaspa webhooks list"),
        (("redeliver",), 2, "--all-dead"),
        (("redeliver", "video_1", "video_2"), 1, "all of them\nadaspa: 'video_2' has no undelivered event"),
        (("rotate", "--keep", "long"), 2, "such as 30d"),
        (("secret", "--key", "nobody"), 1, "adaspa keys list"),
    ],
)
def test_a_mistake_is_named(webhooks: Command, arguments: Any, status: int, words: str) -> None:
    assert words in webhooks(*arguments, status=status)


def test_the_secret_that_the_command_shows_verifies_and_is_replaced(
    service: Service, receiver: Receiver, webhooks: Command
) -> None:
    old = webhooks("secret")
    new = webhooks("rotate")
    assert webhooks("secret").split() == [new, old]
    service.completed(webhook_url=receiver.url)
    until(lambda: receiver.calls, "the event comes")
    for holding in (old, new):
        receiver.calls[0].verify(holding)
    final = webhooks("rotate", "--keep", "0s")
    assert webhooks("secret").split() == [final, old], "the first one holds on as it was promised"


def test_secrets_of_the_settings_are_changed_there(webhooks: Command) -> None:
    assert webhooks("secret", ADASPA_WEBHOOK_SECRETS=SECRET) == SECRET
    assert "ADASPA_WEBHOOK_SECRETS" in webhooks("rotate", ADASPA_WEBHOOK_SECRETS=SECRET, status=1)
    for bad in ("whsec_c2hvcnQ=", "whsec_!", SECRET.removeprefix("whsec_"), f"{SECRET},x"):
        with pytest.raises(ValidationError, match="allowed: whsec_"):
            Settings(webhook_secrets=bad)  # type: ignore[arg-type]
    refused = webhooks("secret", ADASPA_WEBHOOK_SECRETS=f"{SECRET},x", status=1)
    assert "ADASPA_WEBHOOK_SECRETS: not a signing secret; allowed: whsec_" in refused and SECRET not in refused


@pytest.mark.asks
def test_the_events_of_a_key_are_signed_with_its_own_secret(
    service: Service, receiver: Receiver, webhooks: Command
) -> None:
    made = [service.parts.keys.create(name, frozenset({Scope.read, Scope.write})) for name in ("one", "two")]
    secrets = []
    for _, token in made:
        service.http.headers["Authorization"] = f"Bearer {token}"
        answer = service.http.get("/v1/webhooks/secret").json()
        assert (answer["object"], answer["replaced"]) == ("webhook_secret", [])
        secrets.append(answer["secret"])
    assert secrets == [webhooks("secret", "--key", key.id) for key, _ in made]
    service.completed(webhook_url=receiver.url)
    until(lambda: receiver.calls, "the event comes")
    receiver.calls[0].verify(secrets[1])
    for other in (secrets[0], webhooks("secret")):
        with pytest.raises(WebhookVerificationError):
            receiver.calls[0].verify(other)


def test_a_service_without_keys_shows_its_secret_to_its_operator_alone(service: Service) -> None:
    answer = service.http.get("/webhooks/secret")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_secret")
