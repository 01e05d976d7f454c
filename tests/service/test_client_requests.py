"""What the Python clients send: all that they are given, as whom, to whom, and no more often than it takes."""

import inspect
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from inspect import Parameter
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import httpx
import pytest
from adaspa_api.fields import ROLES
from adaspa_api.token_file import token_file
from adaspa_api.video_fields import VideoFields
from adaspa_client import ApiError, BadRequest, Client
from adaspa_client.authorization import authorization
from flaky_proxy import flaky
from http_server import answering
from running_gateway import Service
from waiting import PATIENCE

VIDEO_ID = "video_" + "1" * 32
KEPT = {"on_progress", "poll", "timeout", "patience", "path"}
"""Arguments of methods that are for the client itself."""
GIVEN: dict[str, Any] = {
    "video_id": VIDEO_ID,
    "prompt": "a red circle & a \u2028 star",
    "n": 94680,
    "days": 91357,
    "order": "asc",
    "page_size": 92468,
    "after": "video_" + "2" * 32,
    "metadata": {"order of a shop": "4 & 17"},
    "variant": "thumbnail",
    "expires_in": 93579,
    "via": "storage",
    "image": "https://example.com/first.png",
    "last_image": "https://example.com/last.png",
    "webhook_url": "https://example.com/hook?a=b",
    "idempotency_key": "order-17",
    "last_event_id": "5-7",
}
"""An argument of each name, as no other part of a request says it. The numbers are no ports."""


@contextmanager
def recording() -> Iterator[tuple[str, list[str]]]:
    """The address of a server that refuses everything, and its requests so far, each as one readable text."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode("utf-8", "replace")
            if self.headers.get_content_type() == "application/json":
                body = json.dumps(json.loads(body), ensure_ascii=False)
            seen.append(f"{self.command} {unquote_plus(self.path)}\n{self.headers}\n{body}")
            self.send_response(400)
            self.end_headers()

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with answering(Handler) as port:
        yield f"http://127.0.0.1:{port}", seen


def parts(value: Any) -> list[str]:
    """What a request has in it that says so."""
    return [text for pair in value.items() for text in pair] if isinstance(value, dict) else [str(value)]


METHODS = {
    name: [
        argument
        for argument, kind in inspect.signature(method).parameters.items()
        if kind.kind is not Parameter.VAR_KEYWORD
    ]
    for name, method in inspect.getmembers(Client, inspect.isfunction)
    if not name.startswith("_") and name != "close"
}
"""Names of the arguments of each method that asks a gateway."""


@pytest.mark.parametrize(("name", "arguments"), METHODS.items(), ids=METHODS)
def test_every_argument_of_every_method_is_sent(connect: Any, tmp_path: Path, name: str, arguments: list[str]) -> None:
    """And nothing of it where it is not given."""
    given = {argument: GIVEN[argument] for argument in arguments if argument not in KEPT | {"self"}}
    required = {argument: value for argument, value in given.items() if argument in ("video_id", "prompt", "n")}
    own = {"path": tmp_path / "out.mp4"} if "path" in arguments else {}
    with recording() as (url, seen), connect(url) as client:
        for asked in (given, required):
            with pytest.raises(BadRequest):
                found = getattr(client, name)(**asked, **own)
                list(found)  # a list is asked for when it is read
    whole, least = seen
    for argument, value in given.items():
        for text in parts(value):
            assert text in whole, f"{argument} is lost"
            assert argument in required or text not in least, argument
    assert whole.partition("\n")[0].partition("?")[0].split(" HTTP")[0] == least.partition("\n")[0].partition("?")[0]
    assert list(tmp_path.iterdir()) == []


def test_every_field_of_a_request_is_sent_as_it_is(connect: Any, tmp_path: Path) -> None:
    """As JSON and, beside a file, as a form. An image, a video or a sound may be a file, too."""
    (tmp_path / "a file").write_bytes(b"of a sound")
    fields: dict[str, Any] = {name: f"value of {name}" for name in VideoFields.__annotations__ if name not in ROLES}
    fields |= {"audio": False, "steps": 7, "guidance_scale": 2.5, "loras": [{"name": "ink"}], "metadata": {"a": "b"}}
    with recording() as (url, seen), connect(url) as client:
        for files in ({}, dict.fromkeys(ROLES, b"of an image"), dict.fromkeys(ROLES, tmp_path / "a file")):
            for ask in (client.create, lambda prompt, **fields: client.create_batch(prompt, 2, **fields)):
                with pytest.raises(BadRequest):
                    ask("a star", **fields, **files)
                body = seen[-1]
                for name, value in fields.items():
                    text = value if isinstance(value, str) else json.dumps(value)
                    as_json, as_form = f'"{name}": {json.dumps(value)}', f'name="{name}"\r\n\r\n{text}\r\n'
                    assert (as_form if files else as_json) in body, name
                for name in files:
                    assert str(tmp_path) not in body, "the names of a user's folders are nobody's business"
                    assert f'name="{name}"; filename=' in body and body.count("\r\n\r\nof a") == len(ROLES)


def test_each_way_to_give_an_image_names_the_same_field(connect: Any) -> None:
    with recording() as (url, seen), connect(url) as client:
        for short, name in (("image", "input_reference"), ("last_image", "last_frame")):
            bodies = []
            for argument in (short, name):
                for value in ("HTTPS://example.com/a.png", b"a file"):
                    with pytest.raises(BadRequest):
                        client.create("a star", **{argument: value})
                    assert f'"{name}"' in seen[-1]
                    bodies.append("filename=" in seen[-1])
            assert bodies == [False, True] * 2
            asked = len(seen)
            for ask in (client.create, lambda prompt, **images: client.create_batch(prompt, 2, **images)):
                with pytest.raises(TypeError, match=f"^{short} and {name} are the same; allowed: one of the two$"):
                    ask("a star", **{short: b"one", name: b"another"})
            assert len(seen) == asked


def test_an_idempotency_key_makes_one_of_two_requests(service: Service, connect: Any) -> None:
    with connect(service.url) as client:
        first = client.create("a star", idempotency_key="order-1")
        ways = (
            lambda key: [client.create("a star", idempotency_key=key)],
            lambda key: client.create_batch("a star", 2, idempotency_key=key),
            lambda key: [client.remix(first.id, "a moon", idempotency_key=key)],
        )
        for number, ask in enumerate(ways):
            made = [[video.id for video in ask(key)] for key in (f"key-{number}", f"key-{number}", None, None)]
            assert made[0] == made[1] and len({tuple(ids) for ids in made}) == 3


def test_a_list_takes_a_request_for_each_page_and_no_more(service: Service, connect: Any) -> None:
    ids = [service.create()["id"] for _ in range(5)]
    for size, pages in ((1, 5), (2, 3), (5, 1), (6, 1)):
        for order, wanted in (("asc", ids), ("desc", ids[::-1])):
            with flaky(service.url) as proxy, connect(proxy.url) as client:
                assert [video.id for video in client.list(order, page_size=size)] == wanted
                assert len(proxy.requests) == pages
                assert [video.id for video in client.list(order, page_size=size, after=wanted[2])] == wanted[3:]


def test_a_client_has_one_connection_for_all_its_requests_and_closes_it_at_its_end(connect: Any) -> None:
    opened, ended = [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            opened.append(self)

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "12")
            self.end_headers()
            self.wfile.write(b'{"data": []}')

        def finish(self) -> None:
            super().finish()
            ended.set()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with answering(Handler) as port:
        with connect(f"http://127.0.0.1:{port}") as client:
            assert [client.models() for _ in range(3)] == [[]] * 3
            assert len(opened) == 1 and not ended.is_set()
        assert ended.wait(PATIENCE), "it is still open"


def test_a_request_takes_no_longer_than_it_may(connect: Any, silent: str) -> None:
    for retries in (0, 2):
        with connect(silent, timeout=0.05, retries=retries) as client, pytest.raises(httpx.TimeoutException):
            client.models()


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes requests and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


# As whom


@pytest.mark.parametrize("key", ["sk-1", "k" * 300, "~!#$%&'*+/=?^_`{|}:;,.<>()[]\\\"@-"])
def test_a_key_goes_before_the_token_that_a_gateway_left(
    connect: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with recording() as (url, seen):
        port = httpx.URL(url).port or 0
        token_file(port).parent.mkdir()
        token_file(port).write_text("the-token")
        ways = ((url, key, f"Bearer {key}"), (url, None, "Bearer the-token"), (url, "", "Bearer the-token"))
        named = url.replace("http://", "http://anna:secret@")
        for address, own, sent in (*ways, (named, None, "Basic YW5uYTpzZWNyZXQ=")):
            with connect(address, api_key=own) as client, suppress(ApiError):
                client.models()
            assert f"authorization: {sent}\n" in seen[-1].replace("Authorization", "authorization"), own


def test_without_a_token_that_can_be_read_nothing_is_sent(
    connect: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway then says what is missing."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    with recording() as (url, seen):

        def ask() -> None:
            with connect(url) as client, pytest.raises(BadRequest):
                client.models()

        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        ask()
        token_file(httpx.URL(url).port or 0).mkdir(parents=True)  # as little a file to be read as another user's
        ask()
        monkeypatch.setenv("XDG_STATE_HOME", "")
        monkeypatch.setattr(Path, "home", homeless)
        ask()
        assert len(seen) == 3 and not any("uthorization:" in request for request in seen)


@pytest.mark.parametrize(
    "key", ["two words", " sk-1", "sk-1\n", "sk-1\r\nX-Other: 1", "sk\t1", "schlüssel", "sk-\x7f1"]
)
def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(connect: Any, key: str) -> None:
    for ask in (authorization, lambda key: connect("http://127.0.0.1:1", api_key=key)):
        with pytest.raises(ValueError, match=r"^api_key: ") as caught:
            ask(key)
        assert key.strip() not in str(caught.value) and "allowed: " in str(caught.value)
