"""A webhook_url at admission: which are taken, and what the refusal of another says."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from adaspa_jobs.settings import Settings
from names import Names
from running_gateway import Service, serving


@pytest.fixture(scope="module")
def names() -> Names:
    return Names()


@pytest.fixture(scope="module")
def gateway(valkey_socket: Path, tmp_path_factory: pytest.TempPathFactory, names: Names) -> Iterator[Service]:
    """A gateway as it comes: https to public addresses only."""
    folder = tmp_path_factory.mktemp("gateway")
    settings = Settings(redis_url=f"unix://{valkey_socket}?db=0", storage_url=str(folder / "objects"))
    with serving(settings, folder, names) as running:
        yield running


def refusal(service: Service, url: Any) -> dict[str, Any]:
    """The error that a create with this URL gets; nothing may have come of it."""
    response = service.http.post("/videos", json={"prompt": "a red circle", "webhook_url": url})
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error["param"] == "webhook_url" and "allowed: " in error["message"]
    assert service.http.get("/videos").json()["data"] == []
    return error


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://hooks.example.com/", "is not https"),
        ("ftp://hooks.example.com/", "is not a URL"),
        ("file:///etc/passwd", "is not a URL"),
        ("gopher://hooks.example.com/", "is not a URL"),
        ("javascript:alert(1)", "is not a URL"),
        ("hooks.example.com", "is not a URL"),
        ("//hooks.example.com/", "is not a URL"),
        ("https://", "is not a URL"),
        ("https://[::1", "is not a URL"),
        ("https://xn--invalid-.example/", "is not a URL"),
        ("https://hooks.example.com:99999/", "is not a URL"),
        ("https://hooks.example.com:0/", "port 0"),
        ("", "is not a URL"),
        ("https://user@hooks.example.com/", "has a user"),
        ("https://user:password@hooks.example.com/", "has a user"),
        ("https://:password@hooks.example.com/", "has a user"),
        ("https://hooks.example.com/#fragment", "fragment"),
        ("https://hooks.example.com/" + "x" * 2048, "2048"),
        ("https://hooks.example.com/" + "é" * 1000, "when encoded"),
        (5, "2048"),
        (["https://hooks.example.com/"], "2048"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_url_of_another_kind_is_refused(gateway: Service, valkey: redis.Redis, url: Any, words: str) -> None:
    error = refusal(gateway, url)
    assert words in error["message"] and "password@" not in error["message"]


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:169.254.169.254]/",
        "https://private.example/",
        "https://mixed.example/",
        "https://nowhere.example/",
        "https://nothing.example/",
        "https://%31%32%37.0.0.1/",
        "https:\\\\127.0.0.1\\",
        "https://\uff11\uff12\uff17.0.0.1/",
        "https://hooks.example.com\\@127.0.0.1:80/",
    ],
)
def test_a_host_that_is_not_public_is_refused_in_the_same_words(
    gateway: Service, valkey: redis.Redis, names: Names, url: str
) -> None:
    names.answers = {
        "127.0.0.1": ["127.0.0.1"],
        "::1": ["::1"],
        "::ffff:a9fe:a9fe": ["::ffff:a9fe:a9fe"],
        "private.example": ["10.0.0.1"],
        "mixed.example": ["8.8.8.8", "10.0.0.1"],
        "nothing.example": [],
    }
    error = refusal(gateway, url)
    assert error["code"] == "webhook_url_not_allowed"
    assert "the host does not exist or has a private address" in error["message"]
    assert "10.0.0.1" not in error["message"]


def test_a_public_host_is_accepted_and_its_url_shown_nowhere(
    gateway: Service, valkey: redis.Redis, names: Names
) -> None:
    names.answers = {"hooks.example.com": ["8.8.8.8", "2606:4700:4700::1111"]}
    url = "https://HOOKS.example.com:443/a?token=secret"
    form = {"prompt": (None, "x"), "webhook_url": (None, url)}
    for send in ({"json": {"prompt": "x", "webhook_url": url}}, {"files": form}):
        answer = gateway.http.post("/videos", **send)  # type: ignore[arg-type]
        assert answer.status_code == 200, answer.text
        assert "secret" not in answer.text and "secret" not in gateway.http.get("/videos").text
        assert gateway.store.client.hget(f"adaspa:job:{answer.json()['id']}", "webhook_url") == (
            b"https://hooks.example.com/a?token=secret"
        )


def unknown_for_now(service: Service) -> None:
    """Nothing is said of the host: its lookup had no answer."""
    response = service.http.post("/videos", json={"prompt": "x", "webhook_url": "https://hooks.example.com/"})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (503, "service_unavailable", "webhook_url")
    assert int(response.headers["retry-after"]) >= 1
    assert service.http.get("/videos").json()["data"] == []


def test_a_name_server_that_does_not_answer_costs_one_bounded_wait(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaspa_service.webhooks.addresses.RESOLVE_SECONDS", 0.2)
    released = threading.Event()

    def silent(host: str, port: int) -> list[str]:
        released.wait()
        return []

    with serving(settings, tmp_path, silent) as service:
        unknown_for_now(service)
        assert service.http.get("/healthz").status_code == 200
        released.set()


def test_a_name_server_that_is_away_is_not_the_clients_fault(settings: Settings, tmp_path: Path) -> None:
    def away(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    with serving(settings, tmp_path, away) as service:
        unknown_for_now(service)


def test_a_request_that_was_accepted_is_answered_again_when_its_host_is_gone(
    gateway: Service, valkey: redis.Redis, names: Names
) -> None:
    names.answers = {"hooks.example.com": ["8.8.8.8"]}
    asked: Any = {
        "json": {"prompt": "x", "webhook_url": "https://hooks.example.com/"},
        "headers": {"Idempotency-Key": "order-1"},
    }
    first = gateway.http.post("/videos", **asked)
    names.answers = {}
    again = gateway.http.post("/videos", **asked)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    assert again.headers["idempotent-replayed"] == "true"
    assert gateway.http.post("/videos", **asked | {"headers": {"Idempotency-Key": "order-2"}}).status_code == 400
