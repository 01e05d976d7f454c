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


@pytest.mark.parametrize("policy", ["always", "everysec", "no"])
def test_only_a_server_that_syncs_before_each_answer_is_taken_for_one(policy: str) -> None:
    with (
        running_valkey("--appendonly", "yes", "--appendfsync", policy) as folder,
        redis.Redis(unix_socket_path=f"{folder}/valkey.sock") as client,
    ):
        assert AppendOnlyFile(client)._syncs_always() == (policy == "always")
