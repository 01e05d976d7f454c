"""A file fetched from a URL: what is asked, what is followed, what is taken, and how it is said that there is none."""

import asyncio
import socket
import ssl
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from typing import IO, Any

import pytest
from adaspa_api.words import Kind
from adaspa_service.inputs.fetch import MOVED, fetch
from adaspa_service.inputs.source import InputRefused
from adaspa_service.webhooks.addresses import Addresses
from http_server import answering
from pydantic import IPvAnyNetwork, TypeAdapter

CONTENT = bytes(range(256)) * 8
THIS_MACHINE = TypeAdapter(tuple[IPvAnyNetwork, ...]).validate_python(["127.0.0.1/32"])


class Server:
    """Answers each request as it is told, and keeps what it was asked."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.status, self.headers, self.content = 200, {"Content-Type": "image/png"}, CONTENT
        self.asked: list[tuple[str, dict[str, str]]] = []


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            left = self.path.partition("left=")[2]
            if left and int(left):
                self.answer(302, {"Location": f"?left={int(left) - 1}"}, b"")
            else:
                self.answer(made.status, made.headers, made.content)

        def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with answering(Handler) as port:
        made = Server(port)
        yield made


def fetched(url: str, kind: Kind = Kind.image, limit: int = len(CONTENT), resolve: Any = None) -> bytes:
    def address(host: str, _: int) -> Sequence[str]:
        return [host]

    async def ask() -> IO[bytes]:
        addresses = Addresses(THIS_MACHINE, resolve or address)
        try:
            return await fetch(url, kind, ssl.create_default_context(), addresses, owner="open", limit=limit)
        finally:
            addresses.close()

    with asyncio.run(ask()) as file:
        file.seek(0)
        return file.read()


def refused(url: str, **how: Any) -> InputRefused:
    with pytest.raises(InputRefused) as caught:
        fetched(url, **how)
    return caught.value


def test_a_server_is_told_what_is_wanted_and_by_whom(server: Server) -> None:
    assert fetched(f"{server.url}/a%20b?c=d#e") == CONTENT
    ((path, headers),) = server.asked
    assert path == "/a%20b?c=d"
    assert headers["host"] == server.url.removeprefix("http://") and headers["accept"] == "image/*"
    assert headers["accept-encoding"] == "identity", "what comes is the file, whose bytes are counted"
    assert headers["user-agent"].startswith("adaspa-serve/")


@pytest.mark.parametrize("told", [True, False], ids=["with its length", "without"])
def test_a_file_has_up_to_its_limit_of_bytes(server: Server, told: bool) -> None:
    if told:
        server.headers["Content-Length"] = str(len(CONTENT))
    assert fetched(server.url, limit=len(CONTENT)) == CONTENT
    error = refused(server.url, limit=len(CONTENT) - 1)
    assert (error.status, error.too_large) == (413, True) and f"up to {len(CONTENT) - 1} bytes" in str(error)


@pytest.mark.parametrize("length", ["9" * 30, "-1", "many", "\u0664", "1_0", "", str(len(CONTENT) + 1)])
def test_a_length_that_is_no_number_or_a_lie_is_a_download_that_was_cut_off(server: Server, length: str) -> None:
    server.headers["Content-Length"] = length.encode().decode("latin-1")
    assert "cut off" in str(refused(server.url, limit=10**6))


@pytest.mark.parametrize("status", [*range(300, 310), 204, 206, 401, 404, 500])
def test_a_file_that_moved_is_fetched_there_and_no_other_status_is_one(server: Server, status: int) -> None:
    server.status, server.headers = status, {"Location": "/there?left=0", "Content-Length": "0"}
    server.content = b""
    moved = status in (301, 302, 303, 307, 308)
    assert moved == (status in MOVED)
    error = refused(server.url)
    assert ("redirects too often" if moved else f"HTTP {status}") in str(error)
    assert [path for path, _ in server.asked] == (["/", *["/there?left=0"] * 3] if moved else ["/"])
    server.headers = {}
    assert f"HTTP {status}" in str(refused(server.url)), "without an address"


@pytest.mark.parametrize(("redirects", "there"), [(0, True), (3, True), (4, False)])
def test_three_redirects_are_followed(server: Server, redirects: int, there: bool) -> None:
    url = f"{server.url}/x?left={redirects}"
    if there:
        assert fetched(url) == CONTENT
    else:
        assert "redirects too often; allowed: up to 3 redirects" in str(refused(url))
    assert len(server.asked) == min(redirects, 3) + 1


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("http://user@{host}/", "a user, a password or no host"),
        ("http://:word@{host}/", "a user, a password or no host"),
        ("ftp://{host}/", "is not a URL"),
        ("http://[::", "something that is not a URL"),
        ("http://10.0.0.1/", "does not exist or has a private address"),
        ("//169.254.169.254/latest", "does not exist or has a private address"),
    ],
)
def test_a_redirect_leads_no_further_than_a_url_of_the_request(server: Server, location: str, said: str) -> None:
    host = server.url.removeprefix("http://")
    server.status, server.headers = 302, {"Location": location.format(host=host), "Content-Length": "0"}
    server.content = b""
    assert said in str(refused(server.url))
    assert len(server.asked) == 1
    if not location.startswith("//"):
        assert refused(location.format(host=host)).status == 400


TYPES = {
    "image/png": {Kind.image},
    "IMAGE/PNG; charset=binary": {Kind.image},
    "video/mp4": {Kind.video, Kind.audio},  # M4A is MP4
    "audio/wav": {Kind.audio},
    "application/ogg": {Kind.audio},
    "application/octet-stream": {*Kind},
    "Binary/Octet-Stream": {*Kind},
    "": {*Kind},
    "text/html": set(),
    "image": set(),
    "x-image/png": set(),
    "text/image/png": set(),
}


@pytest.mark.parametrize("kind", Kind)
def test_a_file_is_of_the_type_that_is_wanted_or_of_any(server: Server, kind: Kind) -> None:
    for said, kinds in TYPES.items():
        server.headers = {"Content-Type": said}
        if kind in kinds:
            assert fetched(server.url, kind) == CONTENT, said
        else:
            named = said.partition(";")[0]
            assert f"the URL's content is {named!r}; allowed: {kind.taken}" in str(refused(server.url, kind=kind)), said
    server.headers = {}
    assert fetched(server.url, kind) == CONTENT


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        (socket.gaierror(socket.EAI_NONAME, "unknown"), "does not exist or has a private address"),
        (socket.gaierror(socket.EAI_AGAIN, "later"), "looking up the URL's host failed; try again"),
        (None, "does not answer, or its download was cut off"),
    ],
)
def test_a_host_that_is_not_there_is_told_from_one_that_may_be_later(fails: Exception | None, said: str) -> None:
    def resolve(*_: Any) -> list[str]:
        if fails:
            raise fails
        return ["127.0.0.1"]

    assert said in str(refused("http://a.example:1/", resolve=resolve))
