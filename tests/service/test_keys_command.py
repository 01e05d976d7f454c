"""``adaspa keys``, as an operator runs it."""

import json
import shutil
from pathlib import Path

import pytest
from adaspa_command import adaspa
from adaspa_jobs.settings import Settings, SettingsError
from adaspa_service.access.keys import KeyStore, Scope
from adaspa_service.access.open_access import Entrance
from adaspa_service.local.folder import reachable_redis
from running_gateway import Service

pytestmark = pytest.mark.asks
CREATE = ("create", "--name", "studio")


def keys(*arguments: object, redis_url: str | None = None, status: int = 0) -> str:
    """What a command prints; on standard error, when it has to fail."""
    done = adaspa("keys", *arguments, **({"ADASPA_REDIS_URL": redis_url} if redis_url else {}))
    assert done.returncode == status, done.stderr
    return (done.stderr if status else done.stdout).strip()


def get(service: Service, token: str) -> int:
    """The answer to a request with this key."""
    return service.http.get("/videos", headers={"Authorization": f"Bearer {token}"}).status_code


def test_a_key_from_its_making_to_its_end(service: Service, redis_url: str) -> None:
    limits = ("--max-in-flight", 5, "--requests-per-minute", 600, "--expires-in", "30d")
    token = keys(*CREATE, *limits, redis_url=redis_url)
    (listed,) = json.loads(keys("list", "--json", redis_url=redis_url))
    assert (listed["name"], listed["scopes"]) == ("studio", ["read", "write"])
    assert (listed["max_in_flight"], listed["requests_per_minute"]) == (5, 600)
    assert listed["expires_at"] == listed["created_at"] + 30 * 86400
    assert token.split("_", 2)[2] not in keys("list", redis_url=redis_url), "it is shown once"
    assert get(service, token) == 200
    assert get(service, keys("rotate", listed["id"], redis_url=redis_url)) == get(service, token) == 200
    rotated = json.loads(keys("rotate", listed["id"], "--grace", "0s", "--json", redis_url=redis_url))
    assert (get(service, token), get(service, rotated["key"])) == (401, 200)
    service.http.headers["Authorization"] = f"Bearer {rotated['key']}"
    video_id = service.create()["id"]
    assert keys("revoke", listed["id"], "--cancel-jobs", redis_url=redis_url) == (
        f"revoked {listed['id']}, cancelled 1 jobs"
    )
    assert get(service, rotated["key"]) == 401
    job = service.store.get(video_id)
    assert job is not None and job.status == "cancelled"
    assert json.loads(keys("list", "--json", redis_url=redis_url)) == []


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--name", "", "'' is no name; allowed: 1 to"),
        ("--name", " ", "' ' is no name"),
        ("--name", "two\nlines", "is no name"),
        ("--name", "\x1b[31mred", "is no name"),
        ("--name", "a" * 101, "is no name"),
        ("--expires-in", "0s", "'0s' is no time at all"),
    ],
)
def test_what_makes_no_useful_key_is_refused(redis_url: str, option: str, value: str, why: str) -> None:
    done = adaspa("keys", *CREATE, option, value, ADASPA_REDIS_URL=redis_url)
    assert done.returncode == 2 and option in done.stderr and why in " ".join(done.stderr.split()), done.stderr
    assert json.loads(keys("list", "--json", redis_url=redis_url)) == []


def test_a_folder_without_a_service_is_named_and_not_made(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    for command in (("keys", "list"), ("webhooks", "list"), ("storage", "orphans")):
        done = adaspa(*command, "--data-dir", folder)
        assert done.returncode == 1 and f"data folder {folder}: no service was started on it" in done.stderr
    assert not (folder / "valkey").exists()


def test_a_service_says_how_to_make_a_key_from_any_folder(tmp_path: Path, redis_url: str) -> None:
    assert f"adaspa keys create --name NAME --data-dir {tmp_path / 'data'}" in check_entrance(
        redis_url, tmp_path / "data"
    )


def test_the_first_key_is_made_before_the_service_runs(tmp_path: Path) -> None:
    folder = ("--data-dir", tmp_path / "data")
    done = adaspa("keys", *CREATE, "--scope", "read", *folder)
    assert done.returncode == 0 and f"{tmp_path / 'data'} is a new data folder" in done.stderr
    assert "studio" in keys("list", *folder), "and is kept in the data folder"
    shutil.rmtree(tmp_path / "data" / "valkey")
    with pytest.raises(SettingsError, match="but Redis has none"), reachable_redis(tmp_path / "data") as url:
        check_entrance(url, tmp_path / "data")


def check_entrance(redis_url: str, data_dir: Path) -> str:
    """What a gateway says of who is let in."""
    with KeyStore.at(redis_url) as store:
        return Entrance(Settings(redis_url=redis_url, data_dir=data_dir), store).check()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("revoke", "0123456789ab"), 1, "no key '0123456789ab'"),
        (("rotate", "0123456789ab"), 1, "no key '0123456789ab'"),
        ((*CREATE, "--expires-in", "a year"), 2, "'a year' is not a duration"),
        ((*CREATE, "--expires-in", "99999999d"), 2, "allowed: 1s to 36500d"),
        ((*CREATE, "--requests-per-minute", "1000001"), 2, "--requests-per-minute"),
        ((*CREATE, "--max-in-flight", "1000001"), 2, "--max-in-flight"),
        ((*CREATE, "--scope", "root"), 2, "'root'"),
        ((*CREATE, "--max-in-flight", "0"), 2, "--max-in-flight"),
        (("create",), 2, "--name"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said(redis_url: str, arguments: tuple[str, ...], status: int, words: str) -> None:
    assert words in keys(*arguments, redis_url=redis_url, status=status)


def test_a_key_that_ends_after_the_calendar_is_listed(redis_url: str) -> None:
    with KeyStore.at(redis_url) as store:
        store.create("for ever", frozenset(Scope), lifetime_seconds=99999999 * 86400)
    assert "after 9999" in keys("list", redis_url=redis_url)


def test_a_redis_that_is_away_is_one_line() -> None:
    said = keys("list", redis_url="redis://127.0.0.1:1/0", status=1)
    assert said.startswith("adaspa: ") and said.count("\n") == 0
