"""Gateways that are replaced while clients use them: processes told to stop under load."""

import asyncio
import http.client
import json
import signal
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from adaspa_command import ADASPA
from adaspa_jobs.settings import Settings
from adaspa_jobs.store import JobStore
from adaspa_service.cli.server import is_gateway
from adaspa_service.gateway import draining as draining_module
from adaspa_service.gateway.draining import Server
from adaspa_service.local.supervisor import free_port
from event_stream import parse
from forked import Started
from gateway_process import environment, running
from running_gateway import serving
from waiting import PATIENCE, until


class Balancer:
    """What stands before the gateways: sends new connections to those whose ``/readyz`` it has last seen well.

    Args:
        urls: of the gateways.
    """

    def __init__(self, urls: list[str]) -> None:
        self.ready = list(urls)
        self._urls = urls
        self.ended = threading.Event()

    def probe(self) -> None:
        while not self.ended.wait(0.1):
            self.ready = [url for url in self._urls if self._is_ready(url)]

    @staticmethod
    def _is_ready(url: str) -> bool:
        try:
            return httpx.get(f"{url}/readyz").is_success
        except httpx.TransportError:
            return False


class User:
    """Sends one request after the other, on one connection for as long as the gateway does not say that it ends.

    Args:
        balancer: leads to gateways.
        place: of this user's gateway among those that are ready.
        pause: seconds between two requests.
    """

    def __init__(self, balancer: Balancer, place: int, pause: float) -> None:
        self.balancer, self.place, self.pause = balancer, place, pause
        self.served, self.failed = Counter[str](), list[str]()
        self.at = ""
        """The gateway that it has a connection to, or had the last one to."""

    def ask(self) -> None:
        connection = None
        while not self.balancer.ended.is_set():
            if connection is None:
                self.at = self.balancer.ready[self.place % len(self.balancer.ready)]
                connection = http.client.HTTPConnection(httpx.URL(self.at).netloc.decode(), timeout=PATIENCE)
            try:
                body = json.dumps({"prompt": "a red circle"})
                connection.request("POST", "/videos", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                return
            if answer.status != 200:
                self.failed.append(f"{answer.status} of {self.at}")
            self.served[self.at] += 1
            if answer.will_close:
                connection.close()
                connection = None
            time.sleep(self.pause)


def test_no_request_fails_while_a_gateway_is_replaced(tmp_path: Path, redis_url: str) -> None:
    with ExitStack() as started:

        def start(name: str) -> tuple[Started, str]:
            (tmp_path / name).mkdir()
            storage = str(tmp_path / "objects")
            return started.enter_context(
                running(
                    tmp_path / name,
                    redis_url,
                    storage_url=storage,
                    queue_cap="100000",
                    drain_seconds="3600",
                    open_access="true",
                )
            )

        (leaving, old), (_, new) = start("old"), start("new")
        balancer = Balancer([old, new])
        users = [User(balancer, place, pause) for place in (0, 1) for pause in (0.03, 0.06, 0.5, 0.7)]
        threads = [threading.Thread(target=work) for work in (balancer.probe, *(user.ask for user in users))]
        for thread in threads:
            thread.start()
        started.callback(lambda: [thread.join() for thread in threads])
        started.callback(balancer.ended.set)

        def served(url: str) -> int:
            return sum(user.served[url] for user in users)

        until(lambda: served(old) > 20 and served(new) > 20, "the old one is used")
        leaving.send_signal(signal.SIGTERM)
        until(lambda: balancer.ready == [new], "the balancer has seen that the old one goes")
        until(lambda: {user.at for user in users} == {new}, "all have gone on to the new one")
        assert leaving.poll() is None, "and it still serves"
        leaving.send_signal(signal.SIGTERM)  # as at the end of its time
        assert leaving.wait(timeout=PATIENCE) == -signal.SIGTERM
        until(
            lambda: all(user.failed or user.served[new] > 20 for user in users if user.pause < 0.1),
            "all go on at the new one",
        )
        balancer.ended.set()
        assert [failure for user in users for failure in user.failed] == []


def test_who_stops_the_command_stops_the_gateway(tmp_path: Path, redis_url: str) -> None:
    port = free_port("127.0.0.1")
    env = environment(tmp_path, {"redis_url": redis_url, "port": str(port), "drain_seconds": "3600"})
    log = tmp_path / "gateway.log"
    with log.open("wb") as told, subprocess.Popen([ADASPA, "gateway"], env=env, stderr=told) as command:
        until(lambda: is_gateway(f"http://127.0.0.1:{port}"), "it serves")
        try:
            command.send_signal(signal.SIGTERM)
            until(lambda: httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 503, "it drains")
            assert command.poll() is None
        finally:
            command.terminate()
        assert command.wait(timeout=PATIENCE) == -signal.SIGTERM
    assert not is_gateway(f"http://127.0.0.1:{port}")


def test_while_it_drains_all_is_served_until_a_second_signal(tmp_path: Path, redis_url: str) -> None:
    with (
        running(tmp_path, redis_url, drain_seconds="3600", open_access="true") as (process, url),
        httpx.Client(base_url=url) as kept,
    ):
        video_id = kept.post("/videos", json={"prompt": "a red circle"}).json()["id"]
        with httpx.stream("GET", f"{url}/videos/{video_id}/events", timeout=PATIENCE) as response:
            events = parse(response.iter_lines())
            assert next(events)["event"] == "queued"
            process.send_signal(signal.SIGTERM)
            until(lambda: httpx.get(f"{url}/readyz").status_code == 503, "it says that it goes")
            going = httpx.get(f"{url}/readyz")
            assert (going.json()["error"]["code"], going.headers["retry-after"]) == ("draining", "5")
            assert httpx.get(f"{url}/healthz").status_code == 200, "a pod that drains is not to be killed"
            answer = kept.get("/models")
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            kept.delete(f"/videos/{video_id}")
            assert [event["event"] for event in events if "id" in event] == ["cancelled"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("seconds", "signals", "drains", "ends"),
    [
        (5.05, {11: signal.SIGTERM}, True, 62),
        (0.55, {11: signal.SIGTERM}, True, 17),
        (5.05, {11: signal.SIGTERM, 25: signal.SIGTERM}, True, 25),
        (5.05, {11: signal.SIGTERM, 25: signal.SIGINT}, True, 25),
        (5.05, {11: signal.SIGINT}, False, 11),
        (0.0, {11: signal.SIGTERM}, False, 11),
        (5.05, {}, False, 1000),
    ],
    ids=str,
)
def test_it_drains_for_as_long_as_is_set_and_stops_at_any_other_signal(
    monkeypatch: pytest.MonkeyPatch, seconds: float, signals: dict[int, signal.Signals], drains: bool, ends: int
) -> None:
    """Ten times a second the server looks whether it is to end."""
    now, draining, stopping = [0.0], threading.Event(), threading.Event()
    monkeypatch.setattr(draining_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    server = Server(uvicorn.Config("none"), draining, stopping, seconds)
    for tick in range(1, 100):
        now[0] = tick / 10
        if number := signals.get(tick):
            server.handle_exit(number, None)
        if tick % 10:  # else it looks after its headers, too, which it has none of
            assert asyncio.run(server.on_tick(tick)) == stopping.is_set() == (tick >= ends), tick
        assert draining.is_set() == (drains and tick >= 11)


def test_a_connection_is_kept_for_as_long_as_is_set(settings: Settings, tmp_path: Path) -> None:
    assert settings.keep_alive_seconds > 60, "which is how long proxies keep theirs"
    with serving(settings.model_copy(update={"keep_alive_seconds": 1}), tmp_path) as service:
        connection = http.client.HTTPConnection(httpx.URL(service.url).netloc.decode(), timeout=PATIENCE)
        begin = time.monotonic()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        assert connection.sock.recv(1) == b"", "closed"
        assert time.monotonic() - begin > 0.9


def test_a_request_that_the_stop_breaks_off_is_told_to_come_again(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, over = threading.Event(), threading.Event()

    def page(*_: object, **__: object) -> None:
        begun.set()
        over.wait()

    monkeypatch.setattr(JobStore, "page", page)
    with ThreadPoolExecutor(1) as pool:
        with serving(settings, tmp_path) as service:
            asked = pool.submit(httpx.get, f"{service.url}/videos", headers=service.http.headers, timeout=PATIENCE)
            until(begun.is_set, "it is being answered")
        answer = asked.result(PATIENCE)
        over.set()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["error"]["code"] == "gateway_stopped"


def test_each_answer_of_a_gateway_that_drains_ends_its_connection(settings: Settings, tmp_path: Path) -> None:
    with serving(settings, tmp_path) as service:
        paths = ("/videos", "/nowhere", "/healthz", "/readyz")
        assert all(service.http.get(path).headers.get("connection") != "close" for path in paths)
        app: Any = service.server.config.app
        app.state.draining.set()
        assert all(service.http.get(path).headers["connection"] == "close" for path in paths)
