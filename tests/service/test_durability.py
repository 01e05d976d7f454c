"""What was said to be done is on Redis' disk, where Redis can say so."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from adaspa_jobs.append_only import AppendOnlyFile
from adaspa_jobs.job import JobParams
from adaspa_jobs.store import JobStore
from adaspa_service.access.keys import KeyStore, Scope
from admitting import create
from chaos.power import Shim
from claiming import VIDEO, claimed
from running_gateway import REPORT
from valkey_process import running_valkey, start_valkey
from waiting import PATIENCE

Params = Callable[..., JobParams]


@pytest.fixture
def shim(short_folder: Path) -> Shim:
    """Knows what the server has synced."""
    return Shim(short_folder)


@pytest.fixture
def on_disk(short_folder: Path, shim: Shim) -> Iterator[redis.Redis]:
    """A client of a Valkey with an append-only file."""
    server = start_valkey(short_folder, "--appendonly", "yes", before=shim.before("valkey", lambda: None))
    with redis.Redis(unix_socket_path=str(short_folder / "valkey.sock")) as client:
        yield client
    server.terminate()
    server.wait()


def waits(client: redis.Redis) -> int:
    """How often the server was asked to wait for its disk."""
    stats: Any = client.info("commandstats")
    return int(stats.get("cmdstat_waitaof", {"calls": 0})["calls"])


def test_what_must_not_come_back_or_be_done_again_is_on_the_disk_when_it_is_said_to_be_done(
    on_disk: redis.Redis, params: Params
) -> None:
    on_disk.config_set("appendfsync", "always")
    store, keys = JobStore(on_disk), KeyStore(on_disk)
    jobs = [create(store, params()) for _ in range(2)]
    key, _ = keys.create("studio", frozenset({Scope.read}))
    lease = claimed(store, jobs[0])
    assert waits(on_disk) == 0
    for number, act in enumerate(
        (
            lambda: store.complete(lease, VIDEO, REPORT, {}),
            lambda: store.request_cancel(jobs[1].id),
            lambda: store.discard(jobs[1].id),
            lambda: keys.rotate(key.id, 60),
            lambda: keys.revoke(key.id),
        ),
        1,
    ):
        act()
        assert waits(on_disk) == number
    assert AppendOnlyFile(on_disk).synced()


def test_what_is_said_to_be_on_the_disk_of_a_server_that_syncs_every_second_is_there(
    on_disk: redis.Redis, params: Params, shim: Shim
) -> None:
    store = JobStore(on_disk)
    job = create(store, params())
    time.sleep(1.3)  # the server has synced; for a second it answers WAITAOF too early
    on_disk.set("another's", 1)
    time.sleep(0.15)
    store.request_cancel(job.id)
    (file,) = (shim.folder / "appendonlydir").glob("*.incr.aof")
    assert b"cancelled" in file.read_bytes() and shim.synced(file) == file.stat().st_size


def test_one_sync_that_takes_long_does_not_end_the_waiting_for_others(
    on_disk: redis.Redis, shim: Shim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaspa_jobs.append_only.SYNC_SECONDS", 0.2)
    file = AppendOnlyFile(on_disk)
    shim.slow_syncs("valkey", 2)
    assert not file.synced() and not file.synced()
    shim.slow_syncs("valkey", 0)
    monkeypatch.setattr("adaspa_jobs.append_only.SYNC_SECONDS", PATIENCE)
    on_disk.set("what must not come back", 1)
    assert file.synced()
    (path,) = (shim.folder / "appendonlydir").glob("*.incr.aof")
    assert b"what must not come back" in path.read_bytes()[: shim.synced(path)]


def test_a_file_that_is_never_synced_is_waited_for_once(
    on_disk: redis.Redis, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaspa_jobs.append_only.SYNC_SECONDS", 0.3)
    on_disk.config_set("appendfsync", "no")
    store = JobStore(on_disk)
    began = time.monotonic()
    for _ in range(5):
        store.request_cancel(create(store, params()).id)
    assert time.monotonic() - began >= 0.3 and waits(on_disk) == 1


def test_a_redis_without_the_file_or_the_command_is_not_waited_for(store: JobStore, params: Params) -> None:
    assert not store.file.synced()
    store.client.acl_setuser(
        "limited", enabled=True, nopass=True, keys=["*"], categories=["+@all"], commands=["-waitaof"]
    )
    socket = store.client.connection_pool.connection_kwargs["path"]
    with redis.Redis(unix_socket_path=socket, username="limited", password="any") as client:
        assert not AppendOnlyFile(client).synced()
        assert JobStore(client).request_cancel(create(store, params()).id) == "cancelled"
    store.client.acl_deluser("limited")


@pytest.fixture
def plain() -> Iterator[redis.Redis]:
    """A client of a server with the file, whose syncs are its own matter."""
    with (
        running_valkey("--appendonly", "yes") as folder,
        redis.Redis(unix_socket_path=f"{folder}/valkey.sock") as client,
    ):
        yield client


@pytest.mark.parametrize("policy", ["always", "everysec", "no"])
def test_a_server_is_asked_when_it_syncs(plain: redis.Redis, policy: str) -> None:
    plain.config_set("appendfsync", policy)
    assert AppendOnlyFile(plain)._policy() == policy


def calls(client: redis.Redis, command: str) -> int:
    stats: Any = client.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


def test_what_a_server_does_is_asked_again_from_time_to_time(
    plain: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, before = AppendOnlyFile(plain), calls(plain, "config|get")
    plain.config_set("appendfsync", "always")
    assert file.synced() and file.synced()
    assert calls(plain, "config|get") == before + 1, "not each time"
    monkeypatch.setattr("adaspa_jobs.append_only.AGAIN_SECONDS", 0.0)
    file = AppendOnlyFile(plain)
    assert file.synced() and file.synced()
    assert calls(plain, "config|get") == before + 3
    plain.config_set("appendfsync", "no")
    monkeypatch.setattr("adaspa_jobs.append_only.SYNC_SECONDS", 0.1)
    for number in (1, 2):
        assert not file.synced() and waits(plain) == 4 + number, "it is waited for again"


def test_what_a_full_server_did_not_take_is_not_on_its_disk(plain: redis.Redis) -> None:
    plain.config_set("appendfsync", "always")
    plain.config_set("maxmemory", 1)
    assert not AppendOnlyFile(plain).synced()
    plain.config_set("maxmemory", 0)
    file = AppendOnlyFile(plain)
    assert file.synced()
    plain.config_set("maxmemory", 1)
    assert not file.synced()
    plain.config_set("maxmemory", 0)
    assert file.synced(), "a server that has room again is asked"


@pytest.mark.parametrize(
    ("may_not", "policy", "found"),
    [
        ("-config", "always", True),  # what it says of its syncs is enough
        ("-config -info", "always", False),
        ("-info", "always", True),
        ("-info", "everysec", False),
        ("-config", "everysec", True),
    ],
)
def test_a_user_that_may_ask_less_is_told_only_what_is_known(
    plain: redis.Redis, monkeypatch: pytest.MonkeyPatch, may_not: str, policy: str, found: bool
) -> None:
    monkeypatch.setattr("adaspa_jobs.append_only.BEGUN_SECONDS", 0.1)
    monkeypatch.setattr("adaspa_jobs.append_only.SYNC_SECONDS", PATIENCE)
    plain.config_set("appendfsync", policy)
    plain.execute_command("ACL", "SETUSER", "limited", "on", "nopass", "~*", "+@all", *may_not.split())
    path = plain.connection_pool.connection_kwargs["path"]
    with redis.Redis(unix_socket_path=path, username="limited", password="any") as client:
        assert AppendOnlyFile(client).synced() is found


def test_a_sync_that_does_not_come_is_not_waited_for_without_end(
    plain: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaspa_jobs.append_only.BEGUN_SECONDS", 0.0)
    monkeypatch.setattr("adaspa_jobs.append_only.SYNC_SECONDS", 0.2)
    plain.config_set("appendfsync", "always")  # which the user below may not know
    plain.execute_command("ACL", "SETUSER", "limited", "on", "nopass", "~*", "+@all", "-config")
    ask, busy = redis.Redis.info, dict[str, int]()

    def info(client: redis.Redis, *section: str) -> Any:
        return ask(client, *section) | busy

    monkeypatch.setattr(redis.Redis, "info", info)
    path = plain.connection_pool.connection_kwargs["path"]
    with redis.Redis(unix_socket_path=path, username="limited", password="any") as client:
        assert AppendOnlyFile(client).synced()
        for state in ({"aof_pending_bio_fsync": 1}, {"aof_buffer_length": 9}):
            busy.clear()
            busy.update(state)
            assert not AppendOnlyFile(client).synced(), state
