"""The gateway as a process: it serves, or it ends with one clear line."""

import signal
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import forked
import httpx
import pytest
import redis
from adaspa_api.token_file import token_file
from adaspa_client import Client
from adaspa_client.local_token import read_token
from adaspa_command import adaspa
from adaspa_service.access.keys import KeyStore, Scope
from adaspa_service.gateway.__main__ import main
from adaspa_service.local.supervisor import free_port
from gateway_process import environment, running, taken_port
from waiting import PATIENCE


@pytest.fixture
def fresh_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for tokens in which no gateway that was killed has left one."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def refused(env: dict[str, str]) -> str:
    """The one line that a gateway ends with."""
    ended = forked.run(main, ["gateway"], env)
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout == "" and ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith("adaspa gateway: ")
    return ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_and_stops_when_told_to(tmp_path: Path, redis_url: str, number: signal.Signals) -> None:
    with running(tmp_path, redis_url) as (process, url):
        with Client(url) as client:
            assert client.create("a red circle").status == "queued"
        process.send_signal(number)
        # An interrupt from the keyboard is a wish, not an error: no traceback, exit status 0.
        assert process.wait(timeout=PATIENCE) in ((0, -signal.SIGTERM) if number == signal.SIGTERM else (0,))


def test_its_threads_do_not_each_keep_free_memory_of_their_own(tmp_path: Path, redis_url: str) -> None:
    with running(tmp_path, redis_url) as (process, url):
        with Client(url) as client, ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: list(client.list()), range(64)))
        assert process.process.pid is not None
        assert arenas(process.process.pid) <= 1, "beside the first one"


def arenas(pid: int) -> int:
    """How many places glibc's malloc has beside the first: 64 MiB each, of which it uses the beginning."""
    lines = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    regions = [(*(int(end, 16) for end in line[0].split("-")), line[1]) for line in lines]
    heap = 64 * 2**20
    return sum(
        start % heap == 0 and then[1] == start + heap and (mode, then[2]) == ("rw-p", "---p")
        for (start, _, mode), then in pairwise(regions)
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])  # addresses and names that no machine has
def test_a_host_of_another_machine(tmp_path: Path, redis_url: str, host: str) -> None:
    settings = {"redis_url": redis_url, "host": host, "open_access": "true"}
    assert f"ADASPA_HOST: cannot use port 8000 on {host}" in refused(environment(tmp_path, settings))
    served = adaspa("serve", "--no-worker", "--host", host, "--data-dir", tmp_path / "data", ADASPA_OPEN_ACCESS="true")
    assert served.returncode == 1 and served.stderr.endswith("use --host\n"), served.stderr


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
        ({"allowed_hosts": "a.example, b.example:8000"}, "ADASPA_ALLOWED_HOSTS: 'b.example:8000' is not a host name"),
        ({"open_token": "0123456789abcdef/"}, "ADASPA_OPEN_TOKEN: not a token; allowed: 16 or more letters"),
        ({"cors_origins": "https://a.example, *"}, "ADASPA_CORS_ORIGINS: '*' is not an origin"),
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
        ({}, "only you, on this machine", 401),
        ({"open_access": "false"}, "every request needs an API key", 401),
        ({"host": "0.0.0.0", "open_access": "true"}, "open to everyone who can reach 0.0.0.0", 200),
        ({"host": "0.0.0.0", "bootstrap_key": "k" * 40}, "every request needs an API key", 401),
    ],
    ids=str,
)
@pytest.mark.usefixtures("fresh_state")
def test_it_says_who_may_come_in(
    tmp_path: Path, redis_url: str, settings: dict[str, str], said: str, status: int
) -> None:
    with running(tmp_path, redis_url, **settings) as (_, url):
        assert httpx.get(f"{url}/videos").status_code == status
        assert said in (tmp_path / "gateway.log").read_text()
        assert token_file(httpx.URL(url).port or 0).exists() == (settings == {}), "a token that nobody asks for"
        key = {"Authorization": f"Bearer {'k' * 40}"}
        assert httpx.get(f"{url}/videos", headers=key).status_code == (200 if "bootstrap_key" in settings else status)


def test_with_a_key_in_the_store_it_may_be_reached_from_outside(
    tmp_path: Path, valkey: redis.Redis, redis_url: str
) -> None:
    _, token = KeyStore(valkey).create("test", frozenset({Scope.read}))
    with running(tmp_path, redis_url, host="0.0.0.0") as (_, url):
        assert httpx.get(f"{url}/videos").status_code == 401
        assert httpx.get(f"{url}/videos", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_the_token_is_left_for_its_user_alone_and_no_longer_than_the_gateway_runs(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with running(tmp_path, redis_url) as (process, url):
        file = token_file(httpx.URL(url).port or 0)
        assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        token = file.read_text().strip()
        assert len(token) >= 32 and f"page: {url}/#token={token}" in (tmp_path / "gateway.log").read_text()
        assert adaspa("token", server=url).stdout == f"{token}\n"
        assert adaspa("jobs", server=url).returncode == 0
        assert adaspa("jobs", server=url.replace("127.0.0.1", "localhost")).returncode == 0
        refused = adaspa("jobs", server=url, ADASPA_API_KEY="none")
        assert refused.returncode == 1 and "not the token" in refused.stderr
        process.terminate()
        process.wait(timeout=PATIENCE)
        assert list(file.parent.iterdir()) == []
    assert "there is no token for" in adaspa("token", server=url).stderr


def test_a_token_that_cannot_be_left_is_one_line_with_the_ways_out(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null/state")
    port = free_port("127.0.0.1")
    line = refused(environment(tmp_path, {"redis_url": redis_url, "port": str(port), "log_level": "error"}))
    assert "/dev/null/state" in line and "XDG_STATE_HOME" in line and "ADASPA_OPEN_ACCESS=true" in line


def test_a_redis_that_has_lost_the_keys_is_not_started_on(tmp_path: Path, valkey: redis.Redis, redis_url: str) -> None:
    data = tmp_path / "data"
    settings = {"redis_url": redis_url, "data_dir": str(data)}
    KeyStore(valkey).create("test", frozenset({Scope.read}))
    with running(tmp_path, **settings) as (_, url):
        assert httpx.get(f"{url}/videos").status_code == 401
    valkey.flushall()
    line = refused(environment(tmp_path, settings))
    assert str(data / "keys_required") in line and "adaspa keys create" in line and "remove that file" in line
    (data / "keys_required").unlink()
    with running(tmp_path, **settings) as (_, url), Client(url) as client:
        assert list(client.list()) == []


def test_event_streams_do_not_hold_up_the_stop(tmp_path: Path, redis_url: str) -> None:
    with running(tmp_path, redis_url) as (process, url):
        token = {"Authorization": f"Bearer {read_token(httpx.URL(url))}"}
        with httpx.Client(base_url=url, headers=token, timeout=PATIENCE) as http:
            video_id = http.post("/videos", json={"prompt": "a red circle"}).json()["id"]
            with http.stream("GET", f"/videos/{video_id}/events") as response:
                lines = response.iter_lines()
                assert next(lines) == "event: queued"
                process.send_signal(signal.SIGTERM)
                list(lines)  # ends as it should, not as a connection that breaks
        assert process.wait(timeout=PATIENCE) in (0, -signal.SIGTERM)
