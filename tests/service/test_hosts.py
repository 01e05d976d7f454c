"""Under which names a gateway answers: a page whose name was made to lead here (DNS rebinding) gets nothing."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
from adaspa_jobs.settings import Settings
from adaspa_service.access.keys import Scope
from running_gateway import Service, serving
from waiting import PATIENCE

OWN = [
    "localhost",
    "LOCALHOST:9000",
    "a.localhost",
    "localhost.",
    "127.0.0.1",
    "127.9.9.9:80",
    "[::1]:8000",
    "192.168.1.5",
]
FOREIGN = ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "gateway", "1.2.3.4.5"]
NO_NAMES = [
    "",
    "[",
    "[::1",
    "a b",
    "evil.example/",
    "user@localhost",
    "localhost:port",
    "localhost, localhost",
    "l\xf6calhost",
]
PATHS = ("/videos", "/models", "/", "/static/main.js", "/openapi.json", "/metrics", "/nowhere")


def ask(service: Service, *hosts: str, path: str = "/videos", token: str = "") -> tuple[int, str]:
    """Status and body of a request with just these Host headers."""
    url = httpx.URL(service.url)
    with closing(HTTPConnection(url.host, url.port, timeout=PATIENCE)) as connection:
        connection.putrequest("GET", path, skip_host=True)
        for host in hosts:
            connection.putheader("Host", host.encode("latin-1"))
        if token:
            connection.putheader("Authorization", f"Bearer {token}")
        connection.endheaders()
        with connection.getresponse() as answer:
            return answer.status, answer.read().decode()


@pytest.fixture(scope="module", params=["open", "token"])
def unguarded(
    request: pytest.FixtureRequest, valkey_socket: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, str]]:
    """A gateway without API keys, and its token."""
    folder = tmp_path_factory.mktemp("hosts")
    opened = True if request.param == "open" else None
    settings = Settings(
        redis_url=f"unix://{valkey_socket}?db=0", storage_url=str(folder), data_dir=folder, open_access=opened
    )
    with serving(settings, folder) as service:
        service.store.client.flushall()
        yield service, service.token


@pytest.mark.parametrize("host", OWN)
def test_every_name_of_this_machine_will_do(unguarded: tuple[Service, str], host: str) -> None:
    service, token = unguarded
    assert ask(service, host, token=token)[0] == 200


@pytest.mark.parametrize("host", FOREIGN)
def test_another_name_is_refused(unguarded: tuple[Service, str], host: str) -> None:
    service, token = unguarded
    status, body = ask(service, host, token=token)
    assert status == 421 and '"wrong_host"' in body and "ADASPA_ALLOWED_HOSTS" in body


@pytest.mark.parametrize(
    "hosts", [[], ["localhost", "evil.example"], ["localhost"] * 2, *([name] for name in NO_NAMES)], ids=str
)
def test_a_request_names_one_host(unguarded: tuple[Service, str], hosts: list[str]) -> None:
    service, token = unguarded
    for path in PATHS:
        status, body = ask(service, *hosts, path=path, token=token)
        assert status == 400 and '"invalid_host"' in body and "exactly one" in body, path
        got = " and ".join(repr(host) for host in hosts) or "none"
        assert json.loads(body)["error"]["message"].startswith(f"Host: {got}; allowed: "), path
    assert ask(service, *hosts, path="/healthz")[0] == ask(service, *hosts, path="/v1/readyz")[0] == 200, "probes"


def test_nothing_of_an_open_service_is_had_under_another_name(settings: Settings, tmp_path: Path) -> None:
    with serving(settings, tmp_path) as service:
        assert {ask(service, "evil.example", path=path)[0] for path in PATHS} == {421}


def test_names_that_are_allowed(settings: Settings, tmp_path: Path) -> None:
    """Also those of the machines that the gateway's address is on, and with keys nobody else any more."""
    names = ("videos.example.com", "*.Lab.example", "box")
    named = settings.model_copy(update={"allowed_hosts": names, "host": "gateway"})
    with serving(named, tmp_path) as service:
        for host in ("videos.example.com:443", "VIDEOS.example.com", "a.b.lab.example", "box", "gateway", "localhost"):
            assert ask(service, host)[0] == 200, host
        for host in ("example.com", "lab.example", "avideos.example.com", "x.box", "evillab.example"):
            assert ask(service, host)[0] == 421, host
    with serving(named.model_copy(update={"open_access": False}), tmp_path) as service:
        assert ask(service, "videos.example.com")[0] == 401
        assert ask(service, "evil.example")[0] == 421
    with serving(settings.model_copy(update={"allowed_hosts": ("*",)}), tmp_path) as service:
        assert ask(service, "evil.example")[0] == 200


@pytest.mark.asks
def test_with_a_key_any_name_will_do(service: Service) -> None:
    """A proxy with a name of its own stands before it."""
    _, token = service.parts.keys.create("test", frozenset({Scope.read}))
    assert ask(service, "videos.example.com", token=token)[0] == 200
    assert ask(service, "videos.example.com")[0] == 401
    assert ask(service, "a", "b", token=token)[0] == 400


def test_a_refusal_is_counted_and_has_the_usual_headers(service: Service) -> None:
    answer = service.http.get("/videos", headers={"Host": "evil.example"})
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert 'status="421"' in service.http.get("/metrics").text


def test_a_request_of_http_1_0_names_its_host_too(service: Service) -> None:
    url = httpx.URL(service.url)
    for head, status in ((b"", b"400"), (b"Host: localhost\r\n", b"200")):
        with socket.create_connection((url.host, url.port or 0), timeout=PATIENCE) as wire:
            wire.sendall(b"GET /models HTTP/1.0\r\n" + head + b"\r\n")
            assert wire.recv(65536).split()[1] == status
