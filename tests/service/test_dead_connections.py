"""Connections to Redis that die without a word, and a Redis that stalls: nothing hangs, and nothing is done twice."""

import asyncio
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from adaspa_jobs.connections import connections
from adaspa_jobs.job import JobParams
from adaspa_jobs.queue import make_celery
from adaspa_jobs.settings import Settings
from adaspa_service.gateway.events import Stream
from adaspa_service.gateway.state import AppState
from adaspa_service.local.supervisor import free_port
from admitting import create
from flaky_proxy import FlakyProxy, flaky
from kombu.simple import SimpleQueue
from valkey_process import start_valkey
from waiting import PATIENCE, until


@dataclass
class Server:
    """One behind a proxy."""

    process: subprocess.Popen[bytes]
    client: redis.Redis
    port: int
    proxy: FlakyProxy

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.proxy.port}/0?health_check_interval=1"

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """It runs, its connections are there, and it does nothing for the length of a ``with`` block; or until a client
        connects anew, which one that repeats its command does."""
        os.kill(self.process.pid, signal.SIGSTOP)
        accepted, over = self.proxy.accepted, threading.Event()

        def go_on() -> None:
            while self.proxy.accepted == accepted and not over.wait(0.01):
                pass
            os.kill(self.process.pid, signal.SIGCONT)

        watching = threading.Thread(target=go_on)
        watching.start()
        try:
            yield
        finally:
            over.set()
            watching.join()


@pytest.fixture
def server(short_folder: Path) -> Iterator[Server]:
    port = free_port("127.0.0.1")
    process = start_valkey(short_folder, "--port", str(port))
    with redis.Redis(port=port) as client, flaky(f"http://127.0.0.1:{port}") as proxy:
        yield Server(process, client, port, proxy)
    process.kill()
    process.wait()


def test_clients_leave_connections_that_died_while_they_were_idle(
    server: Server, settings: Settings, params: Callable[..., JobParams], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaspa_jobs.connections.ANSWER_SECONDS", 2 * PATIENCE)
    parts = AppState.of(settings.model_copy(update={"redis_url": server.url}))

    async def use() -> list[str]:
        job = await asyncio.to_thread(create, parts.store, params())
        stream = Stream(parts, job, "0-0")
        await stream.read()
        server.proxy.forget()
        await asyncio.sleep(1.1)
        began = time.monotonic()
        found = await asyncio.gather(
            stream.read(), asyncio.to_thread(parts.store.get, job.id), asyncio.to_thread(parts.store.ping)
        )
        assert time.monotonic() - began < PATIENCE, "less than an answer may take: they were asked whether they work"
        await parts.close()
        return [fields["type"] for _, fields in found[0]]

    assert asyncio.run(use()) == ["queued"]


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no such option")
def test_the_kernel_probes_the_connections_of_every_client(server: Server) -> None:
    made = connections(server.url)
    wanted = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 3, socket.TCP_KEEPCNT: 3, socket.TCP_USER_TIMEOUT: 8000}

    def options(sock: Any) -> dict[int, int]:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        return {option: sock.getsockopt(socket.IPPROTO_TCP, option) for option in wanted}

    async def of_the_loop() -> dict[int, int]:
        client = made.async_client(1)
        connection = await client.connection_pool.get_connection()
        found = options(connection._writer.get_extra_info("socket"))
        await connection.disconnect()
        return found

    with made.client() as client, make_celery(Settings(redis_url=server.url)) as celery:
        assert options(client.connection_pool.get_connection()._sock) == wanted
        with celery.connection_for_write() as broker:
            for pool in (broker.default_channel.pool, broker.default_channel.async_pool):
                assert options(pool.get_connection()._sock) == wanted
    assert asyncio.run(of_the_loop()) == wanted


def hear_the_end(pool: Any) -> None:
    """Wait until the idle connections that the server closed have been told so."""
    sockets = [held._sock for held in pool._available_connections]
    assert sockets
    until(lambda: len(select.select(sockets, [], [], 0)[0]) == len(sockets), "the connections have ended")


def test_a_connection_that_the_server_closed_is_not_used(server: Server) -> None:
    """As it closes idle ones, or as it goes and comes again."""
    with connections(server.url).client() as client:
        client.ping()
        server.client.client_kill_filter(_type="normal", skipme=True)
        hear_the_end(client.connection_pool)
        assert client.ping()


def test_only_a_connection_that_was_idle_is_asked_whether_it_works(server: Server) -> None:
    def pings() -> int:
        stats: Any = server.client.info("commandstats")
        return int(stats.get("cmdstat_ping", {"calls": 0})["calls"])

    async def asked(seconds: int, wait: float) -> int:
        made = connections(f"redis://127.0.0.1:{server.port}/0?health_check_interval={seconds}")
        awaited, before = made.async_client(1), pings()
        with made.client() as client:
            for number in range(3):
                await asyncio.sleep(wait if number == 1 else 0)
                client.exists("a")
                await awaited.exists("a")
        await awaited.aclose()
        return pings() - before

    assert asyncio.run(asked(3600, 0.0)) == 0, "one that is new need not be asked, nor one that is used"
    assert asyncio.run(asked(1, 1.1)) >= 2


def test_no_client_repeats_a_command_whose_answer_is_late(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaspa_jobs.connections.ANSWER_SECONDS", 1.0)
    url = server.url.replace("interval=1", "interval=60")  # else it may be the question before the command that is late
    made = connections(url)

    async def awaited() -> None:
        client = made.async_client(1)
        await client.ping()
        with server.stalled(), pytest.raises(redis.TimeoutError):
            await client.lpush("awaited", "x")
        await client.aclose()

    asyncio.run(awaited())
    with made.client() as client:
        client.ping()
        with server.stalled(), pytest.raises(redis.TimeoutError):
            client.lpush("waiting", "x")
        client.ping()
        with server.stalled(), pytest.raises(redis.TimeoutError), client.pipeline() as pipe:
            pipe.lpush("pipeline", "x")
            pipe.execute()
    with make_celery(Settings(redis_url=url)) as celery, celery.connection_for_write() as broker:
        channel = broker.default_channel
        assert channel._size("celery") == 0
        with server.stalled(), pytest.raises(redis.TimeoutError):
            channel._put("celery", {"properties": {"priority": 0}})
    for name in ("awaited", "waiting", "pipeline", "celery"):
        until(lambda name=name: server.client.llen(name), "what was sent in time is done")
        assert server.client.llen(name) == 1, name


def test_a_worker_that_could_not_acknowledge_a_message_takes_the_next_one(server: Server) -> None:
    with make_celery(Settings(redis_url=server.url)) as celery, celery.connection_for_read() as broker:
        broker.default_channel.basic_qos(0, 1, False)  # as a worker with one child
        queue: SimpleQueue = broker.SimpleQueue("generate.demo")

        def after_a_break() -> Any:
            with pytest.raises(redis.ConnectionError):
                queue.get(timeout=PATIENCE)  # a worker begins anew then
            return queue.get(timeout=PATIENCE)

        for number in range(3):
            queue.put({"number": number})
        first = queue.get(timeout=PATIENCE)
        server.proxy.target = ("127.0.0.1", 1)
        server.client.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(redis.ConnectionError):
            first.ack()
        server.proxy.target = ("127.0.0.1", server.port)
        second = after_a_break()
        server.client.client_kill_filter(_type="normal", skipme=True)
        hear_the_end(queue.channel.pool)
        second.ack()  # on a connection anew
        assert after_a_break().payload == {"number": 2}
        assert server.client.hlen("unacked") == 2, "the third, and the first, which comes again much later"


def test_a_message_that_a_worker_gives_back_goes_back_over_a_connection_anew(server: Server) -> None:
    with make_celery(Settings(redis_url=server.url)) as celery, celery.connection_for_read() as broker:
        queue: SimpleQueue = broker.SimpleQueue("generate.demo")
        assert broker.default_channel.visibility_timeout == 3600, "when one comes again whose worker died"
        queue.put({"number": 1})
        message = queue.get(timeout=PATIENCE)
        assert (server.client.llen("generate.demo"), server.client.hlen("unacked")) == (0, 1)
        server.client.client_kill_filter(_type="normal", skipme=True)
        hear_the_end(queue.channel.pool)
        message.requeue()
        assert (server.client.llen("generate.demo"), server.client.hlen("unacked")) == (1, 0)


@pytest.mark.parametrize(
    "url",
    [
        "redis://ada:hunter2@127.0.0.1:1/0",
        "rediss://:hunter2@127.0.0.1:1/0",
        "unix://:hunter2@/run/valkey.sock",
        "redis+sentinel://ada:hunter2@127.0.0.1:1/main?sentinel_password=hunter2",
    ],
)
def test_a_workers_log_names_its_redis_without_a_password(url: str) -> None:
    with make_celery(Settings(redis_url=url)) as celery, celery.connection_for_read() as broker:
        for shown in (broker.as_uri(), broker.as_uri(include_password=True)):
            assert shown == str(connections(url).address) and "hunter2" not in shown
