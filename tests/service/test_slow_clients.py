"""Clients that are slow, or many: each costs the gateway little, and not for long."""

import json
import select
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from adaspa_jobs.settings import Settings
from adaspa_service.gateway import body, connections
from adaspa_service.gateway.app import create_app
from running_gateway import Service, serving
from uvicorn.server import ServerState
from waiting import PATIENCE, until

POST = b"POST /videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 26\r\n\r\n"
BODY = b'{"prompt": "a red circle"}'


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a test can wait for, in which a client does stall. In all others they are the usual ones."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.0)
    monkeypatch.setattr(body, "BODY_SECONDS", 1.0)


stalls = pytest.mark.usefixtures("impatient")


@pytest.fixture
def wire(service: Service) -> Iterator[socket.socket]:
    """A bare connection."""
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port or 0), timeout=PATIENCE) as connection:
        yield connection


def rest(wire: socket.socket) -> bytes:
    """All that still comes until the gateway closes the connection, or resets it: a byte came while it did so."""
    answer = b""
    with suppress(ConnectionResetError):
        while part := wire.recv(65536):
            answer += part
    return answer


def read_until(wire: socket.socket, end: bytes) -> bytes:
    """What comes until this has come, or the connection is closed."""
    answer = b""
    while end not in answer and (part := wire.recv(65536)):
        answer += part
    return answer


@contextmanager
def asked(service: Service, *parts: bytes) -> Iterator[socket.socket]:
    """A connection on which all was sent within the time for a head; a busy machine may need several tries."""
    url = httpx.URL(service.url)
    while True:
        began = time.monotonic()
        with socket.create_connection((url.host, url.port or 0), timeout=PATIENCE) as wire:
            for part in parts:
                wire.send(part)
                time.sleep(0.05)
            if time.monotonic() - began < connections.HEAD_SECONDS:
                yield wire
                return


def drip(wire: socket.socket, text: bytes) -> None:
    """Send byte after byte, never silent for long, until an answer comes: before all is sent."""
    for byte in text:
        with suppress(ConnectionError):  # the answer came just now
            wire.send(bytes([byte]))
        if select.select([wire], [], [], 0.05)[0]:
            return
    raise AssertionError("whoever is never silent for long has all the time that it takes")


@stalls
def test_a_connection_that_asks_nothing_is_closed(wire: socket.socket) -> None:
    head, _, body = rest(wire).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["error"]["code"] == "request_timeout"


@stalls
def test_a_head_that_trickles_in_is_cut_off(wire: socket.socket) -> None:
    drip(wire, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"a" * 600)
    assert rest(wire).startswith(b"HTTP/1.1 408 ")


def test_so_is_one_that_follows_a_good_request(wire: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    wire.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b'"ok"' in read_until(wire, b'"ok"')
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.0)
    drip(wire, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"a" * 600)
    assert b"HTTP/1.1 408 " in rest(wire)


def test_a_head_without_end_is_refused(wire: socket.socket) -> None:
    with suppress(ConnectionError):  # it is refused before it is whole
        wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X-Header: a\r\n" * 6000)
    assert rest(wire)[9:12] in (b"431", b"400"), "400 by uvicorn itself where it runs on h11"


LONG = b"a" * 70_000


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: " + LONG + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + LONG + b": a\r\n\r\n",
        b"GET /healthz?" + LONG + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\nX-Long: " + LONG + b"\r\n\r\n",
        POST[:-4] + b"\r\nX-Long: " + LONG + b"\r\n\r\n" + BODY,
    ],
    ids=["header", "name", "address", "HTTP 1.0", "with a body"],
)
def test_a_long_head_that_comes_at_once_is_refused(head: bytes, wire: socket.socket, service: Service) -> None:
    with suppress(ConnectionError):  # it is refused before it is whole
        wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" + head)
    first, _, answer = rest(wire).partition(b'{"status":"ok"}')
    assert first.startswith(b"HTTP/1.1 200 ")
    assert answer[9:12] in (b"431", b"400") and b'{"error":' in answer, "400 where uvicorn runs on h11"
    assert service.http.get("/videos").json()["data"] == []


def test_what_is_not_http_gets_an_error_like_all_others(wire: socket.socket) -> None:
    wire.sendall(b"\x16\x03\x01 a TLS client\r\n\r\n")
    head, _, body = rest(wire).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and json.loads(body)["error"]["code"] == "invalid_request"


@stalls
def test_a_body_that_trickles_in_is_cut_off(wire: socket.socket, service: Service) -> None:
    wire.send(POST.replace(b"26", b"999"))
    drip(wire, BODY[:20] + b"a" * 600)
    answer = rest(wire)
    assert answer.startswith(b"HTTP/1.1 408 ") and b'"request_timeout"' in answer
    assert service.http.get("/videos").json()["data"] == []


def test_a_body_that_never_ends_does_no_harm(wire: socket.socket, service: Service) -> None:
    wire.send(POST + BODY[:5])
    wire.close()
    assert service.create()["status"] == "queued"


def test_slow_enough_is_not_too_slow(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request in pieces, and until the next one a pause that is longer than a head may take."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.0)
    with asked(service, POST[:30], POST[30:], BODY[:10], BODY[10:]) as wire:
        assert read_until(wire, b'"queued"').startswith(b"HTTP/1.1 200 ")
        time.sleep(1.5)
        wire.send(POST + BODY)
        assert b"HTTP/1.1 200 " in read_until(wire, b"HTTP/1.1 ")


def test_an_event_stream_may_last(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    video_id = service.create()["id"]
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.0)
    with asked(service, f"GET /videos/{video_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()) as wire:
        assert b"event: queued" in read_until(wire, b"event: queued")
        time.sleep(1.5)
        service.claim(video_id)
        assert b"event: in_progress" in read_until(wire, b"event: in_progress")


def test_more_connections_than_allowed_are_told_to_come_again(settings: Settings, tmp_path: Path) -> None:
    with serving(settings.model_copy(update={"max_connections": 8}), tmp_path) as service:
        url = httpx.URL(service.url)
        held = [socket.create_connection((url.host, url.port or 0)) for _ in range(10)]
        refused = httpx.get(f"{service.url}/readyz")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_connections")
        assert int(refused.headers["retry-after"]) >= 1 and refused.headers["connection"] == "close"
        alive = httpx.get(f"{service.url}/healthz")
        assert (alive.status_code, alive.json()) == (200, {"status": "ok"}), "a probe would end all connections"
        assert alive.headers["connection"] == "close"
        for connection in held:
            connection.close()
        until(lambda: httpx.get(f"{service.url}/readyz").status_code == 200, "there is room again")


def test_connections_that_wait_for_their_next_request_leave_room_for_new_ones(
    settings: Settings, tmp_path: Path
) -> None:
    with serving(settings.model_copy(update={"max_connections": 8}), tmp_path) as service, ExitStack() as opened:
        kept = [opened.enter_context(httpx.Client(base_url=service.url)) for _ in range(12)]
        assert [client.get("/healthz").status_code for client in kept] == [200] * 12


def asks(wire: socket.socket) -> bytes:
    """What comes of a request on a connection that is kept; nothing where that is closed."""
    with suppress(ConnectionError):
        wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return read_until(wire, b"}")
    return b""


def test_of_those_that_wait_the_one_that_has_waited_longest_makes_room(settings: Settings, tmp_path: Path) -> None:
    with serving(settings.model_copy(update={"max_connections": 4}), tmp_path) as service, ExitStack() as opened:
        url = httpx.URL(service.url)

        def connect() -> socket.socket:
            return opened.enter_context(socket.create_connection((url.host, url.port or 0), timeout=PATIENCE))

        first, *others = (connect() for _ in range(4))
        for wire in (first, *others, first):
            assert b'"ok"' in asks(wire)
            time.sleep(0.01)  # uvloop's clock knows milliseconds
        late = connect()
        assert b'"ok"' in asks(late)
        assert others[0].recv(1) == b"", "it has waited longest"
        for wire in (first, *others[1:], late):
            assert b'"ok"' in asks(wire)


def test_two_that_come_at_one_moment_do_not_get_the_place_of_one(settings: Settings, tmp_path: Path) -> None:
    with serving(settings.model_copy(update={"max_connections": 4}), tmp_path) as service, ExitStack() as opened:
        url = httpx.URL(service.url)

        def connect(text: bytes = b"") -> socket.socket:
            wire = opened.enter_context(socket.create_connection((url.host, url.port or 0), timeout=PATIENCE))
            wire.sendall(text)
            return wire

        idle = connect()
        assert b'"ok"' in asks(idle)
        for _ in range(3):
            connect(b"GET /healthz HTTP/1.1\r\n")
        connected: Any = service.server.server_state.connections
        until(lambda: len(connected) == 4, "all places are taken")
        newcomer, found = next(iter(connected)), list[bool]()  # whoever comes asks the same

        def come() -> None:
            found.extend(newcomer._takes_an_idle_ones_place() for _ in range(2))

        newcomer.loop.call_soon_threadsafe(come)
        assert idle.recv(1) == b"", "it makes room"
        assert found == [True, False], "for one"


@pytest.mark.parametrize(
    ("soft", "hard", "most", "wanted"),
    [
        (256, 4096, 100, (456, 4096)),
        (456, 4096, 100, None),
        (455, 4096, 100, (456, 4096)),
        (1024, 4096, 1000, (2256, 4096)),
        (1024, 2000, 1000, (2000, 2000)),
        (1024, -1, 1000, (2256, -1)),
        (-1, -1, 1000, None),
    ],
)
def test_as_many_files_may_be_open_as_connections_need_if_the_system_lets_them(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, most: int, wanted: tuple[int, int] | None
) -> None:
    limits = [(soft, hard)]
    system: Any = SimpleNamespace(RLIMIT_NOFILE=7, RLIM_INFINITY=-1, getrlimit=lambda _: limits[-1])
    system.setrlimit = lambda _, pair: limits.append(pair)
    monkeypatch.setattr(connections, "resource", system)
    connections.allow_open_files(most)
    assert limits[1:] == ([wanted] if wanted else [])


def test_one_callers_event_streams_leave_connections_to_others(settings: Settings, tmp_path: Path) -> None:
    with serving(settings.model_copy(update={"max_connections": 16}), tmp_path) as service, ExitStack() as opened:
        follow = f"/videos/{service.create()['id']}/events"

        def begin() -> httpx.Response:
            return opened.enter_context(service.http.stream("GET", follow))

        for _ in range(4):
            assert begin().status_code == 200
        refused = service.http.get(follow)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_streams")
        assert int(refused.headers["retry-after"]) >= 1
        opened.close()
        until(lambda: begin().status_code == 200, "a stream that has ended makes room")


@pytest.mark.parametrize(("limit", "whole"), [(60.0, True), (1.0, False)])
def test_an_answer_may_be_taken_slowly_but_not_left(
    service: Service, limit: float, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STALL_SECONDS", limit)
    content = bytes(24 * 2**20)  # more than what the sockets hold
    lease = service.claim(service.create()["id"])
    service.complete(lease, content)
    url, connected = httpx.URL(service.url), service.server.server_state.connections
    before = len(connected)
    with socket.socket() as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
        wire.connect((url.host, url.port))
        wire.settimeout(PATIENCE)
        wire.send(f"GET /videos/{lease.job.id}/content HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        taken = len(wire.recv(2**20))
        for _ in range(3 if whole else 0):
            time.sleep(0.3)
            taken += len(wire.recv(2**20))
        if not whole:
            until(lambda: len(connected) == before, "the gateway waits for its client no longer")
        with suppress(ConnectionResetError):
            while taken < len(content) and (part := wire.recv(2**20)):
                taken += len(part)
    assert (taken >= len(content)) == whole


def test_only_a_client_that_takes_nothing_now_is_waited_for(settings: Settings) -> None:
    """However often it has stopped before, and not once its connection is over."""
    timers: list[SimpleNamespace] = []

    def call_later(seconds: float, act: Any, *_: object) -> SimpleNamespace:
        timers.append(SimpleNamespace(seconds=seconds, act=act, on=True))
        timers[-1].cancel = lambda timer=timers[-1]: setattr(timer, "on", False)
        return timers[-1]

    loop: Any = SimpleNamespace(call_later=call_later)
    wire = SimpleNamespace(
        get_extra_info=lambda *_: None, is_closing=lambda: False, abort=lambda: None, close=lambda: None
    )
    config = connections.configure(create_app(settings), settings)
    config.load()
    protocol = connections.GuardedProtocol(config, ServerState(), {}, loop)
    protocol.connection_made(wire)

    def stalls() -> list[float]:
        return [timer.seconds for timer in timers if timer.on and timer.act == wire.abort]

    for _ in range(3):
        protocol.pause_writing()
        assert stalls() == [connections.STALL_SECONDS]
        protocol.resume_writing()
        assert stalls() == []
    protocol.pause_writing()
    protocol.connection_lost(None)
    assert [timer for timer in timers if timer.on] == [], "nothing is left to do for a connection that is over"


@pytest.mark.parametrize(
    ("address", "known"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("::1", "::1"),
        ("::192.0.2.1", "::c000:201"),
    ],
)
def test_a_client_has_one_address_by_whatever_socket_it_comes(address: str, known: str) -> None:
    assert connections.as_it_is_known((address, 7)) == (known, 7)
    assert connections.as_it_is_known(None) is None


def test_many_slow_clients_leave_room_for_others(service: Service) -> None:
    url = httpx.URL(service.url)
    slow = [socket.create_connection((url.host, url.port or 0)) for _ in range(200)]
    for connection in slow:
        connection.send(POST + BODY[:3])
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: httpx.get(f"{service.url}/models").status_code, range(8)))
    assert answers == [200] * 8
    for connection in slow:
        connection.close()
