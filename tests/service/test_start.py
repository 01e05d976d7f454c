"""``python -m adaspa_service.gateway`` as a process: it serves, or it ends with one clear line."""

import signal
import subprocess
from pathlib import Path

import httpx
import pytest
import redis
from adaspa_jobs.keys import KeyStore, Scope
from gateway_process import COMMAND, environment, running, taken_port


def refused(env: dict[str, str]) -> str:
    """The one line that a gateway ends with."""
    ended = subprocess.run(COMMAND, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout == "" and ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith("adaspa gateway: ")
    return ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_and_stops_when_told_to(tmp_path: Path, redis_url: str, number: signal.Signals) -> None:
    with running(tmp_path, redis_url) as (process, url):
        assert httpx.post(f"{url}/videos", json={"prompt": "a red circle"}).status_code == 200
        process.send_signal(number)
        # An interrupt from the keyboard is a wish, not an error: no traceback, exit status 0.
        assert process.wait(timeout=30) in ((0, -signal.SIGTERM) if number == signal.SIGTERM else (0,))


def test_a_taken_port(tmp_path: Path, redis_url: str) -> None:
    with taken_port() as port:
        line = refused(environment(tmp_path, {"redis_url": redis_url, "port": str(port)}))
    assert f"port {port} on 127.0.0.1" in line and "in use" in line and "ADASPA_PORT" in line


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"redis_url": "unix:///nowhere/valkey.sock"}, "/nowhere/valkey.sock"),
        ({"redis_url": "redis://127.0.0.1:1/0"}, "127.0.0.1:1"),
        ({"redis_url": "memcached://x"}, "ADASPA_REDIS_URL"),
        ({"lease_seconds": "0"}, "ADASPA_LEASE_SECONDS"),
        ({"storage_url": "/dev/null/objects"}, "/dev/null/objects"),
        ({"catalog": "/nowhere/catalog.json"}, "/nowhere/catalog.json"),
        ({"port": "many"}, "ADASPA_PORT"),
        ({"host": "256.256.256.256", "open_access": "true"}, "256.256.256.256"),
        ({"host": "0.0.0.0"}, "ADASPA_OPEN_ACCESS=true"),
        ({"host": "::"}, "adaspa keys create"),
        ({"host": "gateway.example"}, "ADASPA_BOOTSTRAP_KEY"),
        ({"bootstrap_key": "k" * 40, "open_access": "true"}, "ADASPA_OPEN_ACCESS is true"),
        ({"cors_origins": "https://a.example, *"}, "ADASPA_CORS_ORIGINS: '*' is no origin"),
    ],
    ids=str,
)
def test_what_is_missing_is_named(tmp_path: Path, redis_url: str, settings: dict[str, str], named: str) -> None:
    assert named in refused(environment(tmp_path, {"redis_url": redis_url, **settings}))


def test_a_user_of_redis_that_lacks_rights_is_told(tmp_path: Path, valkey: redis.Redis, redis_url: str) -> None:
    valkey.execute_command("ACL", "SETUSER", "weak", "on", ">secret", "~*", "+@all", "-xadd")
    try:
        line = refused(environment(tmp_path, {"redis_url": redis_url.replace("unix://", "unix://weak:secret@")}))
    finally:
        valkey.execute_command("ACL", "DELUSER", "weak")
    assert "ADASPA_REDIS_URL: its user lacks rights (XADD)" in line and "secret" not in line


def test_a_password_is_not_told(tmp_path: Path) -> None:
    assert "secret" not in refused(environment(tmp_path, {"redis_url": "redis://user:secret@127.0.0.1:1/0"}))


def test_a_secret_that_is_too_short_is_not_told(tmp_path: Path, redis_url: str) -> None:
    line = refused(environment(tmp_path, {"redis_url": redis_url, "bootstrap_key": "hunter2"}))
    assert "ADASPA_BOOTSTRAP_KEY" in line and "32" in line and "hunter2" not in line


@pytest.mark.parametrize(
    ("settings", "said", "status"),
    [
        ({}, "open without a key, to this machine alone", 200),
        ({"open_access": "false"}, "every request needs an API key", 401),
        ({"host": "0.0.0.0", "open_access": "true"}, "open to everyone who reaches 0.0.0.0", 200),
        ({"host": "0.0.0.0", "bootstrap_key": "k" * 40}, "every request needs an API key", 401),
    ],
    ids=str,
)
def test_it_says_who_may_come_in(
    tmp_path: Path, redis_url: str, settings: dict[str, str], said: str, status: int
) -> None:
    with running(tmp_path, redis_url, **settings) as (_, url):
        assert httpx.get(f"{url}/videos").status_code == status
        assert said in (tmp_path / "gateway.log").read_text()
        key = {"Authorization": f"Bearer {'k' * 40}"}
        assert httpx.get(f"{url}/videos", headers=key).status_code == (200 if "bootstrap_key" in settings else status)


def test_with_a_key_in_the_store_it_may_be_reached_from_outside(
    tmp_path: Path, valkey: redis.Redis, redis_url: str
) -> None:
    _, token = KeyStore(valkey).create("test", frozenset({Scope.read}))
    with running(tmp_path, redis_url, host="0.0.0.0") as (_, url):
        assert httpx.get(f"{url}/videos").status_code == 401
        assert httpx.get(f"{url}/videos", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_event_streams_do_not_hold_up_the_stop(tmp_path: Path, redis_url: str) -> None:
    with running(tmp_path, redis_url) as (process, url):
        video_id = httpx.post(f"{url}/videos", json={"prompt": "a red circle"}).json()["id"]
        with httpx.stream("GET", f"{url}/videos/{video_id}/events", timeout=30) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("id: ")
            process.send_signal(signal.SIGTERM)
            list(lines)  # ends as it should, not as a connection that breaks
        assert process.wait(timeout=30) in (0, -signal.SIGTERM)
