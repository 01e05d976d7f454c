"""What operators' commands do to a service's Redis and folders, and what they leave for its audit log."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from adaspa_command import adaspa
from adaspa_jobs.job import JobParams
from adaspa_jobs.storage import ObjectStorage
from adaspa_jobs.store import JobStore
from adaspa_service.access.acts import OperatorActs
from adaspa_service.access.keys import KeyStore, Scope
from adaspa_service.access.open_access import KeysRequired
from adaspa_service.cli import app
from adaspa_service.local.folder import reachable_redis
from adaspa_service.webhooks.deliveries import DeliveryStore, Outcome
from admitting import admit
from typer.testing import CliRunner

SECRET = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cywgMzIgYnl0ZXM="
Command = Callable[..., str]
Params = Callable[..., JobParams]


@pytest.fixture
def command(redis_url: str, tmp_path: Path) -> Command:
    """Runs one beside a Redis that is set; gives what it prints, on standard error if it has to fail."""

    def run(*arguments: object, status: int = 0, **variables: str) -> str:
        own = {"ADASPA_REDIS_URL": redis_url, "ADASPA_DATA_DIR": str(tmp_path / "data"), **variables}
        done = adaspa(*arguments, **own)
        assert done.returncode == status, done.stderr
        return (done.stderr if status else done.stdout).strip()

    return run


@pytest.fixture
def acts(valkey: redis.Redis) -> Callable[[], list[tuple[str, ...]]]:
    """What was done since it was asked last: each event, and what it was done to."""

    def take() -> list[tuple[str, ...]]:
        named = ("event", "key", "job", "key_name", "scopes")
        return [tuple(act[name] for name in named if name in act) for act in OperatorActs(valkey).take()]

    return take


def test_what_is_done_to_keys_is_for_the_audit_log_and_what_is_only_asked_is_not(
    command: Command, acts: Any, store: JobStore, params: Params
) -> None:
    made = json.loads(command("keys", "create", "--name", "one", "--scope", "write", "--scope", "admin", "--json"))
    assert acts() == [("key.created", made["id"], "one", "admin write")]
    job_ids = [admit(store, params(), owner=made["id"])[0].id for _ in range(3)]
    store.request_cancel(job_ids[0])
    other = admit(store, params(), owner="other")[0].id
    command("keys", "list")
    command("keys", "usage")
    for act in ("rotate", "revoke"):
        assert "there is no key 'none'" in command("keys", act, "none", status=1)
    assert acts() == []
    command("keys", "rotate", made["id"])
    assert acts() == [("key.rotated", made["id"])]
    assert command("keys", "revoke", made["id"], "--cancel-jobs") == f"revoked {made['id']}, cancelled 2 jobs"
    revoked, *cancelled = acts()
    assert revoked == ("key.revoked", made["id"])
    assert sorted(cancelled) == sorted(("job.cancelled", job_id) for job_id in job_ids[1:])
    assert store.get(other).status == "queued"  # type: ignore[union-attr]


def test_a_key_that_is_revoked_leaves_its_jobs_unless_they_are_to_go(
    command: Command, acts: Any, store: JobStore, params: Params
) -> None:
    key, _ = KeyStore(store.client).create("one", frozenset({Scope.write}))
    job = admit(store, params(), owner=key.id)[0]
    assert command("keys", "revoke", key.id) == f"revoked {key.id}"
    assert acts() == [("key.revoked", key.id)]
    assert store.get(job.id).status == "queued"  # type: ignore[union-attr]


def test_a_key_makes_no_more_jobs_while_its_jobs_are_cancelled(
    redis_url: str, store: JobStore, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that it made meanwhile would be left."""
    key, token = KeyStore(store.client).create("one", frozenset({Scope.write}))
    admit(store, params(), owner=key.id)
    known, unfinished = list[object](), JobStore.unfinished

    def look(self: JobStore, owner: str) -> Any:
        known.append(KeyStore(store.client).authenticate(token))
        return unfinished(self, owner)

    monkeypatch.setattr(JobStore, "unfinished", look)
    done = CliRunner(env={"ADASPA_REDIS_URL": redis_url}).invoke(app, ["keys", "revoke", key.id, "--cancel-jobs"])
    assert done.stdout == f"revoked {key.id}, cancelled 1 jobs\n" and known == [None]


def test_the_usage_of_all_keys_comes_by_what_they_used(command: Command, store: JobStore, params: Params) -> None:
    names = {KeyStore(store.client).create(name, frozenset({Scope.write}))[0].id: name for name in ("one", "two")}
    for number, owner in enumerate((*names, "revoked"), 1):
        for _ in range(number):
            store.request_cancel(admit(store, params(), owner=owner)[0].id)
    found = json.loads(command("keys", "usage", "--json"))
    assert {row["id"]: (row["name"], row["cancelled"]) for row in found} == {
        **{owner: (name, number) for number, (owner, name) in enumerate(names.items(), 1)},
        "revoked": (None, 3),
    }
    seconds = [row["gpu_seconds"] for row in found]
    assert seconds == sorted(seconds, reverse=True)
    table = {row.split("\t")[0]: row.split("\t")[1:] for row in command("keys", "usage").splitlines()}
    assert table["revoked"] == ["", "0", "0", "3", "0.0"]


def test_a_key_is_listed_with_its_limits_and_its_times(command: Command, store: JobStore) -> None:
    keys = KeyStore(store.client)
    keys.create("bare", frozenset({Scope.read}))
    limits = {"max_in_flight": 2, "requests_per_minute": 7, "lifetime_seconds": 86400}
    _, token = keys.create("full", frozenset({Scope.write, Scope.read}), **limits)
    used = keys.authenticate(token)
    assert used is not None
    keys.use(used)
    rows = {row[1]: row for row in (line.split("\t") for line in command("keys", "list").splitlines())}
    assert rows["bare"][2:5] == ["read", "any", "any"] and rows["bare"][6:] == ["never", "never"]
    assert rows["full"][2:5] == ["read write", "2", "7"]
    assert all(cell.endswith("Z") and cell[:2] == "20" for cell in rows["full"][5:])
    assert rows["full"][5][:10] < rows["full"][6][:10] and rows["full"][7] >= rows["full"][5]


def test_a_first_key_closes_the_service_of_its_folder_and_no_other(command: Command, tmp_path: Path) -> None:
    command("keys", "create", "--name", "one", ADASPA_DATA_DIR=str(tmp_path / "here"))
    assert not (tmp_path / "here").exists(), "the Redis that is set may be another machine's"
    done = adaspa("keys", "create", "--name", "one", "--data-dir", tmp_path / "own")
    assert done.returncode == 0 and "is a new data folder: use it with `adaspa serve --data-dir" in done.stderr
    assert KeysRequired(tmp_path / "own")
    again = adaspa("keys", "create", "--name", "two", ADASPA_DATA_DIR=str(tmp_path / "own"))
    assert (again.returncode, again.stderr) == (0, ""), "it is known now"


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1), ("90s", 90), ("15m", 900), ("12h", 43200), ("36500d", 36500 * 86400)]
)
def test_a_key_lives_as_long_as_it_is_said(command: Command, text: str, seconds: int) -> None:
    command("keys", "create", "--name", "one", "--expires-in", text)
    listed = json.loads(command("keys", "list", "--json"))
    assert [key["expires_at"] - key["created_at"] for key in listed] in ([seconds], [])


@pytest.mark.parametrize(
    "text", ["0s", "36501d", "876001h", "-1s", "1", "1w", "1.5h", "s", "1 d", "1s\n", "9999999999s"]
)
def test_a_key_does_not_live_for_what_is_no_time(command: Command, text: str) -> None:
    assert "--expires-in" in command("keys", "create", "--name", "one", "--expires-in", text, status=2)


def test_a_name_has_up_to_a_hundred_printable_characters(command: Command) -> None:
    for name in ("a" * 100, "Zoë & Co. ✓"):
        command("keys", "create", "--name", name)
    assert {key["name"] for key in json.loads(command("keys", "list", "--json"))} == {"a" * 100, "Zoë & Co. ✓"}


@pytest.fixture
def owed(store: JobStore, params: Params) -> list[str]:
    """The ids of three videos whose events were given up, and of one whose event waits."""
    ids = []
    for number in range(4):
        job, _ = admit(
            store, params(), owner=f"owner-{number}", webhook_url=f"https://h{number}.example/secret-{number}"
        )
        store.request_cancel(job.id)
        ids.append(job.id)
    deliveries = DeliveryStore(store.client)
    for delivery in deliveries.take(10):
        gone = delivery.job_id != ids[-1]
        body = json.dumps({"data": delivery.job_id})
        outcome = Outcome.gone if gone else Outcome.rejected
        deliveries.note(delivery, outcome, error=f"HTTP {outcome}", body=body, again_in=None if gone else 3600)
    assert deliveries.counts().dead == 3 and deliveries.counts().waiting == 1
    return ids


def test_events_are_sent_again_though_one_of_them_is_unknown(
    command: Command, acts: Any, store: JobStore, owed: list[str]
) -> None:
    none = f"video_{'0' * 32}"
    said = command("webhooks", "redeliver", owed[0], none, owed[3], status=1)
    assert f"'{none}' has no undelivered event; `adaspa webhooks list` shows all of them" in said
    assert said.count("\n") == 0 and owed[0] not in said
    assert acts() == [("webhook.redelivered", owed[0]), ("webhook.redelivered", owed[3])]
    due = {delivery.job_id: delivery.attempts for delivery in DeliveryStore(store.client).take(10)}
    assert due == {owed[0]: 1, owed[3]: 2}, "a dead one has all its attempts again, a waiting one those left"


def test_all_dead_events_are_sent_again_and_none_that_waits(
    command: Command, acts: Any, store: JobStore, owed: list[str]
) -> None:
    assert command("webhooks", "redeliver", "--all-dead") == "sending 3 events"
    assert sorted(acts()) == sorted(("webhook.redelivered", job_id) for job_id in owed[:3])
    assert {delivery.job_id for delivery in DeliveryStore(store.client).take(10)} == {*owed[:3]}
    assert command("webhooks", "redeliver", "--all-dead") == "sending 0 events"
    assert acts() == []
    for arguments in ((), (owed[0], "--all-dead")):
        assert "one of the two" in " ".join(command("webhooks", "redeliver", *arguments, status=2).split())


def test_undelivered_events_are_listed_by_state_and_without_their_url(command: Command, owed: list[str]) -> None:
    listed = json.loads(command("webhooks", "list", "--json"))
    assert {each["video_id"]: each["state"] for each in listed} == {
        **dict.fromkeys(owed[:3], "dead"),
        owed[3]: "waiting",
    }
    for each in listed:
        number = owed.index(each["video_id"])
        assert each["receiver"] == f"h{number}.example" and each["attempts"] == 1
        assert (each["type"], each["error"].startswith("HTTP ")) == ("video.cancelled", True)
    for output in (json.dumps(listed), command("webhooks", "list")):
        assert "secret-" not in output
    for state, wanted in (("dead", owed[:3]), ("waiting", owed[3:])):
        rows = command("webhooks", "list", "--state", state).splitlines()
        assert {row.split("\t")[0] for row in rows} == {*wanted} and {row.split("\t")[1] for row in rows} == {state}
    assert len(json.loads(command("webhooks", "list", "--limit", 1, "--json"))) == 2, "of each state"
    shown = json.loads(command("webhooks", "show", owed[2]))
    assert (shown["url"], shown["owner"], shown["body"]) == (
        "https://h2.example/secret-2",
        "owner-2",
        {"data": owed[2]},
    )


def test_secrets_are_shown_of_keys_that_there_are(command: Command, acts: Any, store: JobStore) -> None:
    key, _ = KeyStore(store.client).create("one", frozenset({Scope.write}))
    found = {
        name: command("webhooks", "secret", *more)
        for name, more in {"open": (), "key": ("--key", key.id), "bootstrap": ("--key", "bootstrap")}.items()
    }
    assert len({*found.values()}) == 3 and all(each.startswith("whsec_") for each in found.values())
    assert "there is no key 'none'" in command("webhooks", "secret", "--key", "none", status=1)
    assert acts() == []
    command("webhooks", "rotate", status=1, ADASPA_WEBHOOK_SECRETS=SECRET)
    assert acts() == [] and command("webhooks", "secret") == found["open"]
    fresh = command("webhooks", "rotate", "--keep", "1h")
    assert acts() == [("webhook_secret.rotated",)]
    assert command("webhooks", "secret").split() == [fresh, found["open"]]
    assert len(command("webhooks", "secret", "--key", key.id).split()) == 2


def test_orphans_are_looked_for_in_the_folder_of_the_jobs(tmp_path: Path, params: Params) -> None:
    """Not in another, whose jobs this folder's Redis does not know."""
    for name in ("here", "there"):
        with reachable_redis(tmp_path / name) as url:
            job = admit(JobStore(redis.Redis.from_url(url)), params())[0]
        storage = ObjectStorage(str(tmp_path / name / "objects"))
        storage.create(f"videos/{job.id}/1-a/video.mp4", b"known")
        storage.create(f"videos/video_{name.encode().hex():0>32}/1-a/video.mp4", name.encode())
    default = {"ADASPA_DATA_DIR": str(tmp_path / "here")}
    for arguments, name in (((), "here"), (("--data-dir", tmp_path / "there"), "there")):
        asked = ("storage", "orphans", "--older-than", "0s", *arguments)
        (found,) = json.loads(adaspa(*asked, "--json", **default).stdout)
        assert found["video_id"] == f"video_{name.encode().hex():0>32}", name
        removed = adaspa(*asked, "--remove", "--yes", **default)
        assert "removed: 1 jobs" in removed.stdout, removed.stderr
    assert not [path for path in tmp_path.rglob("video.mp4") if path.read_bytes() != b"known"]
    assert len(list(tmp_path.rglob("video.mp4"))) == 2
