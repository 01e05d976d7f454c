"""Scenes of networks: clients and servers that are slow or send too much, names that lead inside, a moved Redis."""

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from adaspa_jobs import logs
from adaspa_jobs.primary import NotPrimary, NoWrites, Primary
from adaspa_jobs.redis_url import RedisAddress
from adaspa_jobs.settings import Settings
from adaspa_service.gateway import body, connections
from adaspa_service.webhooks.addresses import OWNER_LOOKUPS, Addresses, AddressRefused, LookupFailed
from drawn import picture
from http_server import answering
from redis.exceptions import MasterDownError, ReadOnlyError, ResponseError
from redis_pair import running_pair
from running_gateway import Service, serving
from valkey_process import running_valkey
from waiting import PATIENCE, until

from chaos.desk import desk, refused, seat
from chaos.scenes import Scene
from chaos.stage import Stage

BODY = b'{"prompt": "a red circle"}'
HEAD = b"POST /videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
MOST = 20_000
"""Bytes of an image."""


class Slow(Scene):
    """Clients that send nothing, half of a head, or half of a body."""

    name = "by hand: clients that are slow"
    promise = "a request that does not arrive in time is told so, and its connection is over"

    def play(self, stage: Stage) -> None:
        length = b"Content-Length: %d\r\n\r\n" % len(BODY)
        with desk() as service:
            for sent, status in (
                (HEAD + b"Connection: close\r\n" + length + BODY, 200),
                (b"nonsense\r\n\r\n", 400),
                (b"GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n", 400),
            ):
                self.told(service, sent, status)
            with patch.object(connections, "HEAD_SECONDS", 0.5), patch.object(body, "BODY_SECONDS", 0.5):
                for sent in (
                    b"",
                    b"GET /healthz HT",
                    HEAD,
                    HEAD + length,
                    HEAD + length + BODY[:9],
                    HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n" + BODY[:5],
                ):
                    self.told(service, sent, 408)
                self.dripped(service)
            listed = service.http.get("/videos").json()["data"]
            assert len(listed) == 1, f"of requests that did not arrive {len(listed) - 1} made a video"

    def dripped(self, service: Service) -> None:
        """A head that comes by single bytes, for many times what it may take, has its time as a whole."""
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=0.1) as wire:
            answer = b""
            for byte in b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 300:
                with suppress(TimeoutError):
                    answer = wire.recv(65536)
                    break
                with suppress(OSError):  # it is over, and what was answered is to be read
                    wire.sendall(bytes([byte]))
            assert answer.startswith(b"HTTP/1.1 408 "), f"a head that never ends gets {answer[:80]!r}"

    def told(self, service: Service, sent: bytes, status: int) -> None:
        answer = self.ask(service, sent)
        assert answer.startswith(b"HTTP/1.1 %d " % status), f"{sent[-40:]!r} gets {answer[:80]!r}, not {status}"
        head, _, content = answer.partition(b"\r\n\r\n")
        assert b"connection: close" in head.lower(), answer
        assert status == 200 or json.loads(content)["error"]["message"], answer

    def ask(self, service: Service, sent: bytes) -> bytes:
        """Send this and no more; all that comes until the connection is closed."""
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as wire:
            wire.sendall(sent)
            answer = b""
            while part := wire.recv(65536):
                answer += part
            return answer


class Fetched(Scene):
    """Images at URLs whose servers send too much, too late, or lead elsewhere."""

    name = "by hand: files behind URLs"
    promise = "a file is fetched from where it may be, up to its limits, and else its field says what is wrong"

    def play(self, stage: Stage) -> None:
        image = picture(64, 64)
        big = b"x" * (MOST + 1)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.strip("/")
                moved = {
                    "inside": "http://10.0.0.1/x.png",
                    "metadata": "http://169.254.169.254/latest",
                    "user": f"http://a:b@{self.headers['Host']}/image",
                    "file": "file:///etc/passwd",
                    "relative": "image",
                    "loop": "/loop",
                }
                if path in moved:
                    return self.send(302, b"", {"Location": moved[path], "Content-Length": "0"})
                if path == "big":
                    return self.send(200, big, {"Content-Length": str(len(big))})
                if path in ("endless", "cut"):
                    size = len(big) if path == "endless" else len(image) // 2
                    self.send(200, (big if path == "endless" else image)[:size], {"Connection": "close"})
                    self.close_connection = True
                    return None
                if path == "short":
                    self.send(200, image[: len(image) // 2], {"Content-Length": str(len(image))})
                    self.close_connection = True
                    return None
                if path == "late":
                    time.sleep(0.1)
                return self.send(200, image, {"Content-Length": str(len(image))})

            def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {"Content-Type": "image/png", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        with answering(Handler) as port, desk(image_bytes=MOST, queue_cap=1000) as service:
            for path, status in (
                *(("image", 200), ("relative", 200), ("late", 200), ("inside", 400), ("metadata", 400), ("user", 400)),
                *(("file", 400), ("loop", 400), ("big", 413), ("endless", 413), ("cut", 400), ("short", 400)),
            ):
                asked = {"prompt": "a", "model": "first", "input_reference": f"http://127.0.0.1:{port}/{path}"}
                found = service.http.post("/videos", json=asked)
                assert found.status_code == status, f"an image at /{path}: {found.status_code} {found.text[:200]}"
                assert status == 200 or found.json()["error"]["param"] == "input_reference", found.text
                assert status == 200 or not service.parts.store.client.zcard("adaspa:awaited_inputs"), "it is awaited"
        with answering(Handler) as port, desk(image_networks="") as service:
            asked = {"prompt": "a", "model": "first", "input_reference": f"http://127.0.0.1:{port}/image"}
            refused(service, 400, "input_reference", "POST", "/videos", json=asked)
            for host in ("localhost", "[::1]", "127.1", "0x7f000001", "2130706433"):
                asked["input_reference"] = f"http://{host}:{port}/image"
                refused(service, 400, "input_reference", "POST", "/videos", json=asked)


class Names(Scene):
    """Host names that lead to several addresses, to none, or to another one each time."""

    name = "by hand: names of receivers"
    promise = "a name is called only if each of its addresses may be, at every attempt"

    def play(self, stage: Stage) -> None:
        public, private = "93.184.216.34", "10.0.0.1"
        for found, error in (
            ([public], None),
            ([public, "2606:4700:4700::1111"], None),
            ([public, private], AddressRefused),
            ([private, public], AddressRefused),
            ([public, "::1"], AddressRefused),
            ([], AddressRefused),
            (socket.gaierror(socket.EAI_NONAME, "no such name"), AddressRefused),
            (socket.gaierror(socket.EAI_AGAIN, "later"), LookupFailed),
        ):
            asked: list[str] = []

            def resolve(host: str, _: int, found: Any = found, asked: list[str] = asked) -> list[str]:
                asked.append(host)
                if isinstance(found, Exception):
                    raise found
                return list(found)

            addresses = Addresses((), resolve)
            for _ in range(2):
                try:
                    told = asyncio.run(addresses.of("a.example", 443, "owner"))
                except (AddressRefused, LookupFailed) as refusal:
                    assert type(refusal) is error, f"{found}: {refusal!r}"
                else:
                    assert error is None and told == found, f"{found} is {told}"
            assert asked == ["a.example"] * 2, f"a name is looked up {len(asked)} times for two attempts"
            addresses.close()
        with patch("adaspa_service.webhooks.addresses.RESOLVE_SECONDS", 0.5):
            asyncio.run(self.crowded())
        self.moved()

    async def crowded(self) -> None:
        """Lookups that do not end: whoever waits for a turn behind them waits as long as a lookup may take."""
        over = threading.Event()
        addresses = Addresses((), lambda *_: ["93.184.216.34"] if over.wait() else [])
        asked = [
            asyncio.create_task(addresses.of(f"{number}.example", 443, "owner")) for number in range(OWNER_LOOKUPS + 2)
        ]
        _, waiting = await asyncio.wait(asked, timeout=30)
        over.set()
        assert not waiting, f"of lookups that may take half a second {len(waiting)} are waited for after 30 s"
        for task in asked:
            assert isinstance(task.exception(), LookupFailed), f"a lookup that does not end: {task.exception()!r}"
        addresses.close()

    def moved(self) -> None:
        """A name that led outside when its video was asked for leads inside when its event is due."""
        leads = ["93.184.216.34"]
        with running_valkey("--appendonly", "yes") as folder:
            own = {"redis_url": f"unix://{folder}/valkey.sock?db=0", "storage_url": str(folder / "objects")}
            own |= {"open_access": True, "data_dir": folder / "data", "webhook_retry_seconds": "3600"}
            with serving(Settings(_env_file=None, **own), folder, lambda *_: leads) as service:
                video_id = service.create(webhook_url="https://a.example/hook")["id"]
                leads[:] = ["127.0.0.1"]
                service.http.post(f"/videos/{video_id}/cancel")
                until(lambda: (left := service.parts.deliveries.get(video_id)) and left.tried_at, "its event is tried")
                left = service.parts.deliveries.get(video_id)
                assert left is not None and "may not be called" in left.error, f"a name that moved inside: {left}"
                refused(
                    service,
                    400,
                    "webhook_url_not_allowed",
                    "POST",
                    "/videos",
                    json={"prompt": "a", "webhook_url": "https://a.example/hook"},
                )


class Moved(Scene):
    """The primary of Redis becomes a replica, and its name leads to the new one."""

    name = "by hand: a primary that moves"
    promise = "a gateway whose Redis moved accepts nothing at the old one, and goes on at the new one by itself"

    def play(self, stage: Stage) -> None:
        self.judged()
        with TemporaryDirectory(prefix="pair-") as name, running_pair(Path(name)) as pair:
            seat_folder = Path(name, "seat")
            seat_folder.mkdir()
            with seat(seat_folder, redis_url=pair.url) as service:
                first = service.create(model="plain")["id"]
                until(lambda: pair.second.exists(f"adaspa:job:{first}"), "the replica has it")
                pair.fail_over()
                for method, path in (("POST", "/videos"), ("DELETE", f"/videos/{first}"), ("GET", "/readyz")):
                    options = {"json": {"prompt": "a"}} if method == "POST" else {}
                    refused(service, 503, "service_unavailable", method, path, **options)
                pair.point_to_second()
                until(lambda: service.http.get("/readyz").status_code == 200, "it finds the new primary")
                second = service.create(model="plain")["id"]
                assert service.http.get(f"/videos/{first}").json()["queue_position"] == 1
                with service.http.stream("GET", f"/videos/{second}/events") as answer:
                    lines = answer.iter_lines()
                    assert next(lines) == "event: queued"
                    lease = service.claim(second)
                    assert "event: in_progress" in lines
                    service.complete(lease)
                    assert "event: completed" in lines
                assert (
                    not pair.first.exists(f"adaspa:job:{second}") or pair.first.info("replication")["role"] == "slave"
                )

    def judged(self) -> None:
        """What a server's refusal says of it."""
        primary = Primary(RedisAddress.of("redis://127.0.0.1:1/0"))
        for error, kind, lost in (
            (ReadOnlyError("You can't write against a read only replica."), NotPrimary, 1),
            (MasterDownError("Link with MASTER is down"), NotPrimary, 1),
            (ResponseError("UNBLOCKED force unblock from blocking operation"), NotPrimary, 1),
            (ResponseError("MISCONF Redis is configured to save RDB snapshots"), NoWrites, 0),
            (ResponseError("NOREPLICAS Not enough good replicas to write."), NoWrites, 0),
            (ResponseError("BUSY Redis is busy running a script."), NoWrites, 0),
            (ResponseError("WRONGTYPE Operation against a key"), None, 0),
        ):
            before = primary.lost
            found = primary.judge(error)
            assert type(found) is (kind or type(None)), f"{error} is {found!r}"
            assert primary.lost - before == lost, f"{error}: counts as lost {primary.lost - before} times"


class Logged(Scene):
    """Lines of the log, for machines and for people."""

    name = "by hand: lines of the log"
    promise = "each line says of which job and attempt it speaks, and no line holds a secret"

    def play(self, stage: Stage) -> None:
        video = "video_" + "a" * 32
        for form in ("json", "text"):
            lines = self.written(form, lambda log, form=form: self.write(log, video))
            assert len(lines) == 4, f"{form}: {lines}"
            if form == "text":
                assert all(" WARNING chaos.told: " in line for line in lines), lines
                continue
            found = [json.loads(line) for line in lines]
            told = [(each["message"], each.get("job"), each.get("attempt")) for each in found]
            assert told == [
                (f"{video}: late", video, None),
                ("plain", None, None),
                ("within", video, 3),
                ("after", None, None),
            ], told
            assert all(each["level"] == "WARNING" and each["logger"] == "chaos.told" and each["time"] for each in found)

    def write(self, log: logging.Logger, video: str) -> None:
        log.warning("%s: late", video)
        log.warning("plain")
        with logs.bound(job=video, attempt=3):
            log.warning("within")
        log.warning("after")

    def written(self, form: str, write: Callable[[logging.Logger], None]) -> list[str]:
        """What a process writes whose log is set up so; this one's is as it was afterwards."""
        root, log, out = logging.getLogger(), logging.getLogger("chaos.told"), StringIO()
        handlers, off = root.handlers[:], logging.root.manager.disable
        levels = {each: each.level for each in (root, *map(logging.getLogger, (logs.AUDIT, logs.HTTP_CALLS)))}
        root.handlers[:] = []
        try:
            with patch("sys.stderr", out):
                logs.configure(Settings(_env_file=None, log_format=form))
            logging.disable(logging.NOTSET)
            root.handlers[0].addFilter(lambda record: record.name == log.name)
            write(log)
        finally:
            logging.disable(off)
            logging.captureWarnings(False)
            root.handlers[:] = handlers
            for each, level in levels.items():
                each.setLevel(level)
        return out.getvalue().splitlines()


SCENES: list[Scene] = [Slow(), Fetched(), Names(), Moved(), Logged()]
