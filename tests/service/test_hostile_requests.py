"""Requests that no honest client sends: each gets an answer below 500, or none, and the gateway goes on."""

import gzip
import socket
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from running_gateway import Service
from waiting import PATIENCE

JSON = b'{"prompt": "x"}'
FORM = b'--abc\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n--abc--\r\n'
CREATED = b"HTTP/1.1 200"
REFUSED = b"HTTP/1.1 4"


def send(service: Service, content: bytes, half_close: bool = False) -> bytes:
    """The answer to these bytes on a connection of their own; empty if the gateway only closes it. Bytes that are no
    whole request must be followed by a half-close; after a whole one the gateway would answer it with nothing."""
    host, port = service.url.removeprefix("http://").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as wire:
        with suppress(ConnectionError):  # the gateway answered, and closed it, while there was more to read
            wire.sendall(content)
        if half_close:
            with suppress(OSError):
                wire.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while piece := wire.recv(65536):
                answer += piece
    return answer


def post(*headers: bytes, body: bytes = JSON) -> bytes:
    """A creation with these headers besides the usual ones."""
    length = b"Content-Length: %d" % len(body)
    lines = [b"POST /videos HTTP/1.1", b"Host: localhost", *headers]
    lines += [] if any(b"length" in header.lower() or b"chunked" in header for header in headers) else [length]
    return b"\r\n".join([*lines, b"", body])


def check_harmless(service: Service, answer: bytes) -> None:
    """Refused, and the gateway is well."""
    assert answer == b"" or answer.startswith(b"HTTP/1."), answer[:100]
    assert all(not part.startswith(b"5") for part in answer.split(b"HTTP/1.1 ")[1:]), answer[:300]
    assert b"Traceback" not in answer and b"root:" not in answer
    assert service.http.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"\r\n\r\n\r\n",
        b"GET /videos\r\n\r\n",
        b"GET /videos HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        post(b"Content-Type: application/json", b"Content-Length: -1"),
        post(b"Content-Type: application/json", b"Content-Length: many"),
        post(b"Content-Type: application/json", b"Content-Length: 15", b"Content-Length: 3"),
        post(b"Content-Type: application/json", b"Content-Length: 99999999999999999999"),
        post(b"Content-Type: application/json", b"Content-Length: 15", b"Transfer-Encoding: chunked"),
        post(b"Content-Type: application/json", b"Transfer-Encoding: chunked", body=b"-1\r\n{}\r\n0\r\n\r\n"),
        post(b"Content-Type: application/json", b"Transfer-Encoding: chunked", body=b"fffffffffffffffff\r\n{}"),
        post(b"Content-Type: application/json", b"Transfer-Encoding: chunked", body=b"5\r\n{}"),
        post(b"Content-Type: application/json", b"X-Long: " + b"x" * 200_000),
        post(b"Content-Type: application/json", *(b"X-%d: y" % n for n in range(20_000))),
        post(b"Content-Type: application/json", b"Idempotency-Key: a\x00b"),
        post(b"Content-Type: application/json", b"No colon here"),
        post(b"Content-Type: application/json", b": no name"),
        post(b"Content-Type: application/json", b" folded: once"),
    ],
    ids=lambda content: repr(content[:60] + content[-40:]),
)
def test_what_is_no_http_is_refused(service: Service, content: bytes) -> None:
    answer = send(service, content, half_close=True)
    check_harmless(service, answer)
    assert not answer.startswith(CREATED) and service.messages() == 0


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([b"Content-Type: application/json", b"Content-Encoding: gzip"], gzip.compress(JSON, mtime=0)),
        ([b"Content-Type: application/json; charset=utf-7"], b"+AHs-"),
        ([b"Content-Type: application/json"], b'{"prompt": "x", "seed": 1e400}'),
        ([b"Content-Type: application/json"], b'{"prompt": "' + b"\\u0000" * 400 + b'"}'),
        ([b"Content-Type: application/json"], b'{"a": ' * 2000 + b"1" + b"}" * 2000),
        ([b"Content-Type: application/json"], b"[" * 500_000 + b"]" * 500_000),
        ([b"Content-Type: application/json"], b'{"prompt": "x", "' + b"y" * 900_000 + b'": 1}'),
        ([b"Content-Type: multipart/form-data; boundary="], FORM),
        ([b"Content-Type: multipart/form-data; boundary=" + b"a" * 5000], FORM),
        ([b"Content-Type: multipart/form-data; boundary=\xff\xfe"], FORM),
        ([b"Content-Type: multipart/form-data; boundary=abc"], b"--abc\r\n" * 50_000),
        (
            [b"Content-Type: multipart/form-data; boundary=abc"],
            b"--abc\r\n" + b"X: y\r\n" * 50_000 + b"\r\nx\r\n--abc--",
        ),
        ([b"Content-Type: multipart/form-data; boundary=abc"], FORM.replace(b'"prompt"', b'"' + b"p" * 500_000 + b'"')),
        ([b"Content-Type: multipart/form-data; boundary=abc"], FORM.replace(b'"prompt"', b'"\xff"')),
        ([b"Content-Type: multipart/form-data; boundary=abc"], FORM.replace(b"\r\n\r\nx", b"\r\n\r\n\xff\xfe")),
        ([b"Content-Type: multipart/form-data; boundary=abc; charset=none"], FORM),
        (
            [b"Content-Type: multipart/form-data; boundary=abc"],
            FORM.replace(b'"prompt"', b'"prompt"; filename="../../../etc/passwd"'),
        ),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_an_odd_body_is_refused(service: Service, headers: list[bytes], body: bytes) -> None:
    answer = send(service, post(*headers, b"Connection: close", body=body))
    check_harmless(service, answer)
    assert answer.startswith(REFUSED) and service.messages() == 0


@pytest.mark.parametrize("body", [b"\xef\xbb\xbf" + JSON, JSON.decode().encode("utf-16")])
def test_json_in_any_unicode_is_read(service: Service, body: bytes) -> None:
    answer = send(service, post(b"Content-Type: application/json", b"Connection: close", body=body))
    assert answer.startswith(CREATED) and b'"prompt":"x"' in answer


@pytest.mark.parametrize(
    "path",
    [
        b"/../../../../etc/passwd",
        b"/videos/../../../etc/passwd",
        b"/videos/%2e%2e%2f%2e%2e%2fetc%2fpasswd/content",
        b"/videos/..%5c..%5cetc%5cpasswd/content",
        b"/static/../../../../../../../../etc/passwd",
        b"/page/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        b"//etc/passwd",
        b"/videos/%00/content",
        b"/videos/%ff%fe/content?variant=%ff",
        b"/videos?after=" + b"%00" * 100,
        b"/videos?" + b"&".join(b"a=%d" % n for n in range(5000)),
        b"/" + b"a" * 60_000,
        b"http://elsewhere/videos/x",
        b"/models/..%2f..%2fcatalog.json",
    ],
    ids=lambda path: repr(path[:50]),
)
def test_no_path_leads_out(service: Service, path: bytes) -> None:
    answer = send(service, b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path)
    check_harmless(service, answer)


def test_random_bodies_do_no_harm(service: Service) -> None:
    part = st.sampled_from(
        [b"--abc", b"--", b"\r\n", b"\n", b'Content-Disposition: form-data; name="prompt"', b"x", b":"]
    )
    bodies = st.lists(part | st.binary(max_size=8), max_size=12).map(b"".join)
    kinds = st.sampled_from([b"multipart/form-data; boundary=abc", b"application/json"])

    @given(kind=kinds, body=bodies)
    @limits(max_examples=2 * limits().max_examples)
    def check(kind: bytes, body: bytes) -> None:
        headers = {"Content-Type": kind.decode()}
        response = service.http.post("/videos", content=body, headers=headers)
        assert response.status_code in (200, 400)
        assert response.status_code == 200 or response.json()["error"]["message"]

    check()
