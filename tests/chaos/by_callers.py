"""Scenes of callers beside each other, and of requests that come again: who gets what, when, and whether it is judged
anew."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import httpx
from adaspa_client import ApiError, Client, plans, sync
from adaspa_jobs.job import Progress
from adaspa_service.access.keys import KeyStore, Scope
from adaspa_service.gateway.feed import PAUSE_SECONDS
from adaspa_service.gateway.rounds import Rounds
from drawn import picture
from http_server import answering
from redis.asyncio import Redis
from running_gateway import FILES, Service, data_uri
from valkey_process import running_valkey
from waiting import PATIENCE, until

from chaos.desk import desk, refused
from chaos.scenes import Scene
from chaos.stage import Stage

READ_WRITE = frozenset({Scope.read, Scope.write})
STREAMS = 2
"""Event streams that one caller may have, of eight connections."""


@contextmanager
def caller(service: Service, address: str, token: str = "") -> Iterator[httpx.Client]:
    """A client at an address of this machine."""
    transport = httpx.HTTPTransport(local_address=address)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=service.url, transport=transport, timeout=PATIENCE, headers=headers) as http:
        yield http


class Beside(Scene):
    """Keys and addresses follow jobs beside each other, up to what each may."""

    name = "by hand: callers beside each other"
    promise = "what one caller has open keeps no other's out, by its key, and without keys by its address"

    def play(self, stage: Stage) -> None:
        with desk(max_connections=8) as service:
            self.crowd(service, [("127.0.0.2", ""), ("127.0.0.3", "")])
        with desk(max_connections=8, open_access=False) as service:
            keys = KeyStore(service.store.client)
            tokens = [keys.create(name, READ_WRITE)[1] for name in ("one", "two")]
            self.crowd(service, [("127.0.0.2", token) for token in tokens])
            with caller(service, "127.0.0.2", tokens[0]) as here, caller(service, "127.0.0.3", tokens[0]) as there:
                path = self.path(here)
                with here.stream("GET", path), there.stream("GET", path):
                    self.no_more(there, path, "one key at two addresses has streams for two keys")

    def no_more(self, http: httpx.Client, path: str, what: str) -> None:
        """One stream more is refused; one that is not would never end."""
        with http.stream("GET", path) as answer:
            assert answer.status_code == 429, what

    def path(self, http: httpx.Client) -> str:
        made = http.post("/videos", json={"prompt": "a", "model": "plain"})
        assert made.status_code == 200, made.text
        return f"/videos/{made.json()['id']}/events"

    def crowd(self, service: Service, callers: list[tuple[str, str]]) -> None:
        """Both have as many streams as they may, again and again."""
        for _ in range(3):
            with caller(service, *callers[0]) as one, caller(service, *callers[1]) as two:
                first, second = self.path(one), self.path(two)
                with one.stream("GET", first) as a, one.stream("GET", first) as b:
                    assert (a.status_code, b.status_code) == (200, 200), f"a caller has no {STREAMS} streams"
                    self.no_more(one, first, f"a caller has more than {STREAMS} streams")
                    with two.stream("GET", second) as c, two.stream("GET", second) as d:
                        assert (c.status_code, d.status_code) == (200, 200), "one caller's streams keep another's out"
                        self.no_more(two, second, f"another caller has more than {STREAMS} streams")
                for http, path in ((one, first), (two, second)):
                    http.delete(path.removesuffix("/events"))
            service.settle()
            left = service.server.config.app.state.streams._open  # type: ignore[union-attr]
            assert not left, f"streams that are over count on: {left}"


ASKERS = 6
"""Callers of one round trip."""
LEAVES = 4
"""Times that a caller stops to follow."""


class Leaving(Scene):
    """Of two who follow jobs at a gateway one leaves, again and again, just before its job goes on."""

    name = "by hand: callers that leave"
    promise = "whoever stops to follow a job takes nothing from those who follow others"

    def play(self, stage: Stage) -> None:
        with desk() as service, caller(service, "127.0.0.1") as http:
            stays, leaves = (service.claim(service.create()["id"]) for _ in range(2))
            with http.stream("GET", f"/videos/{stays.job.id}/events") as answer:
                lines = answer.iter_lines()
                self.next_step(lines, "queued")
                for step in range(1, 1 + LEAVES):
                    with http.stream("GET", f"/videos/{leaves.job.id}/events") as other:
                        told = other.iter_lines()  # which are over, and so is the stream, once nobody has them
                        self.next_step(told, "in_progress")
                        time.sleep(2 * PAUSE_SECONDS)  # so that the gateway reads for both
                    until(lambda: len(service.parts.feed._followers) == 1, "one has left")
                    for lease in (leaves, stays):
                        service.store.report_progress(lease, Progress(phase="denoising", step=step, steps=100))
                    self.next_step(lines, f'"step": {step},')

    def next_step(self, lines: Iterator[str], what: str) -> None:
        """Read on until something is told, in three times that a stream may be silent."""
        silent = 0
        for line in lines:
            silent += line.startswith(":")
            assert silent < 3, f"nothing is told for a while, and {what} is due"
            if what in line:
                return
        raise AssertionError(f"a stream ends, and {what} is due")


class Shared(Scene):
    """Of those who share a round trip to Redis some leave before its answers come."""

    name = "by hand: round trips that many share"
    promise = "everybody gets the answer to what they asked, whoever else leaves"

    def play(self, stage: Stage) -> None:
        with running_valkey() as folder:
            asyncio.run(self.ask(Redis(unix_socket_path=f"{folder}/valkey.sock"), Random(1)))

    async def ask(self, client: Redis, random: Random) -> None:
        rounds = Rounds(client)
        await client.mset({str(asker): asker for asker in range(ASKERS)})
        for _ in range(8):
            under_way = asyncio.create_task(rounds.ask([("PING",)]))
            await asyncio.sleep(0)
            asked = [[("GET", asker)] * random.randrange(1, 4) for asker in range(ASKERS)]
            tasks = [asyncio.create_task(rounds.ask(each)) for each in asked]
            await asyncio.sleep(0)
            for leaver in random.sample(tasks, 2):
                leaver.cancel()
            await asyncio.gather(under_way, *tasks, return_exceptions=True)
            for asker, task in enumerate(tasks):
                if not task.cancelled():
                    found, wanted = task.result(), [str(asker).encode()] * len(asked[asker])
                    assert found == wanted, f"a caller gets {found}, not {wanted}"
        await client.aclose()


class Rung(Scene):
    """A worker's bell is rung for each job, also while its client waits for the answer."""

    name = "by hand: bells of jobs that are made"
    promise = "a worker is told of each accepted job at once, once, and in the queue that it waits in"

    def play(self, stage: Stage) -> None:
        with desk(queue_cap=5000) as service:
            self.service, self.client = service, service.store.client
            once = {"Idempotency-Key": "once"}
            source = ""
            for asked, headers, path, bells in (
                ({}, {}, "/videos", (1, 0)),
                ({"n": 3}, {}, "/videos", (3, 0)),
                ({"priority": "bulk"}, {}, "/videos", (0, 1)),
                ({"n": 2, "priority": "bulk"}, {}, "/videos", (0, 2)),
                ({}, once, "/videos", (1, 0)),
                ({}, once, "/videos", (0, 0)),
                ({}, {}, "remix", (1, 0)),
                ({}, {"Prefer": "wait=0"}, "/videos", (1, 0)),
                ({"steps": 0}, {}, "/videos", (0, 0)),
            ):
                before = self.rung()
                body = {"prompt": "a"} if path == "remix" else {"prompt": "a", "model": "plain"} | asked
                answer = service.http.post(
                    f"/videos/{source}/remix" if path == "remix" else path, json=body, headers=headers
                )
                source = source or answer.json()["id"]
                service.settle()
                grew = tuple(now - then for now, then in zip(self.rung(), before, strict=True))
                assert grew == bells, f"{path} {asked} {headers}: rings {grew} bells, not {bells}"
            before = self.rung()
            asking = threading.Thread(
                target=service.http.post,
                args=("/videos",),
                kwargs={"json": {"prompt": "a", "model": "plain"}, "headers": {"Prefer": "wait=20"}},
            )
            asking.start()
            until(lambda: self.rung() != before or not asking.is_alive(), "its bell is rung")
            assert asking.is_alive(), "the bell of a job whose client waits is rung when it waits no longer"
            for job in service.store.unfinished("open"):
                service.http.post(f"/videos/{job.id}/cancel")
            asking.join()

    def rung(self) -> tuple[int, int]:
        return int(self.client.llen("generate.plain")), int(self.client.llen("generate.plain:bulk"))  # type: ignore[arg-type]


class Repeated(Scene):
    """A request comes again with its key, when it would no longer be accepted."""

    name = "by hand: requests that come again"
    promise = "a request that was accepted is answered the same way again, whatever has changed since"

    def play(self, stage: Stage) -> None:
        self.asked = 0
        scene, image = self, picture(64, 64)

        class Check(BaseHTTPRequestHandler):
            """Allows, and gives its image, once."""

            def do_POST(self) -> None:
                scene.asked += 1
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(200, "application/json", b'{"allowed": %s}' % (b"true" if scene.allows else b"false"))

            def do_GET(self) -> None:
                self.answer(200 if scene.allows else 404, "image/png", image)

            def answer(self, status: int, kind: str, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        with answering(Check) as port:
            own = {"webhook_http": True, "webhook_networks": "127.0.0.0/8", "queue_cap": 3}
            own |= {"prompt_check_url": f"http://127.0.0.1:{port}/", "prompt_check_seconds": 60}
            with desk(open_access=False, **own) as service:
                self.allows = True
                key = KeyStore(service.store.client).create("one", READ_WRITE, max_in_flight=3)[1]
                service.http.headers["Authorization"] = f"Bearer {key}"
                self.again(service, port)

    def again(self, service: Service, port: int) -> None:
        asked = {"prompt": "a", "model": "first", "webhook_url": f"http://127.0.0.1:{port}/"}
        asked["input_reference"] = f"http://127.0.0.1:{port}/image.png"
        first = service.http.post("/videos", json=asked, headers={"Idempotency-Key": "one"})
        assert first.status_code == 200, first.text
        video = first.json()
        remix = service.http.post(
            f"/videos/{video['id']}/remix", json={"prompt": "b"}, headers={"Idempotency-Key": "two"}
        )
        service.create(model="first")
        refused(service, 429, "too_many_in_flight", "POST", "/videos", json={"prompt": "a", "model": "first"})
        self.allows, before = False, self.asked
        folders = {key.split("/")[1] for key in service.parts.storage.keys("inputs/")}
        with patch.object(service.parts.addresses, "of", side_effect=AssertionError("its receiver is looked up again")):
            for path, body, name, wanted in (
                ("/videos", asked, "one", video["id"]),
                (f"/videos/{video['id']}/remix", {"prompt": "b"}, "two", remix.json()["id"]),
            ):
                for _ in range(2):
                    found = service.http.post(path, json=body, headers={"Idempotency-Key": name})
                    assert found.status_code == 200, f"{path}, again: {found.status_code} {found.text[:300]}"
                    assert found.json()["id"] == wanted and found.headers["idempotent-replayed"] == "true", found.text
        assert self.asked == before, "the prompt of a request that was accepted is checked again"
        left = {key.split("/")[1] for key in service.parts.storage.keys("inputs/")}
        assert left == folders, f"images of a request that comes again are stored again: {left - folders}"
        for body, code in ((asked | {"seed": 1}, "one"), ({"prompt": "c"}, "one")):
            found = service.http.post("/videos", json=body, headers={"Idempotency-Key": code})
            assert found.status_code == 422, f"another request with its key: {found.status_code}"


class Shown(Scene):
    """Whoever comes late, asks for another file, or at the wrong time."""

    name = "by hand: what is shown to whoever comes late"
    promise = "only the latest preview is told, a link opens its one file, and a number is as old as it says"

    def play(self, stage: Stage) -> None:
        with desk() as service:
            self.previews(service)
            self.links(service)
            self.refusals(service)
            self.used(service)

    def previews(self, service: Service) -> None:
        video_id = service.create()["id"]
        lease = service.claim(video_id)
        for step in (1, 2, 3):
            told = Progress(phase="denoising", step=step, steps=4, preview_step=step)
            service.store.report_preview(lease, told, b"preview %d" % step)
        service.complete(lease)
        service.store.client.hset(f"adaspa:preview:{video_id}", mapping={"step": "2", "image": b"preview 2"})
        with service.http.stream("GET", f"/videos/{video_id}/events") as answer:
            found = [line for line in answer.iter_lines() if '"preview":' in line]
        assert len(found) == 1 and '"preview_step":2' in found[0].replace(" ", ""), f"{len(found)} previews are told"
        service.store.client.delete(f"adaspa:preview:{video_id}")

    def links(self, service: Service) -> None:
        video_id, other = service.completed(), service.completed()
        links = {name: service.http.get(f"/videos/{video_id}/link?variant={name}").json()["url"] for name in FILES}
        for name, url in links.items():
            assert httpx.get(url, timeout=PATIENCE).content == FILES[name][2], f"the link of {name}"
            for another in FILES:
                moved = url.replace(f"variant={name}", f"variant={another}")
                status = httpx.get(moved, timeout=PATIENCE).status_code
                assert status == (200 if name == another else 403), f"a link of {name} opens {another}: {status}"
            for changed in (url.replace(video_id, other), url.replace("expires=", "expires=1"), url[:-1]):
                status = httpx.get(changed, timeout=PATIENCE).status_code
                assert status == 403, f"a link that was changed ({changed[-60:]}): {status}"
        service.store.client.delete("adaspa:signing_secret")
        for url in links.values():
            status = httpx.get(url, timeout=PATIENCE).status_code
            assert status == 403, f"a link outlives the secret that signed it: {status}"
        url = service.http.get(f"/videos/{video_id}/link").json()["url"]
        assert httpx.get(url, timeout=PATIENCE).status_code == 200, "a link of a new secret"

    def refusals(self, service: Service) -> None:
        """Images of a request that is refused go at once."""
        before = set(service.parts.storage.keys("inputs/"))
        asked = {"prompt": "a", "model": "first", "input_reference": data_uri(picture(64, 64))}
        made = [service.http.post("/videos", json=asked) for _ in range(14)]
        accepted = [each.json()["id"] for each in made if each.status_code == 200]
        assert len(accepted) < 14 and made[-1].status_code == 429, "the queue is not full"
        folders = {key.split("/")[1] for key in set(service.parts.storage.keys("inputs/")) - before}
        assert len(folders) == len(accepted), f"{len(folders)} requests' images are kept, of {len(accepted)} accepted"
        for video_id in accepted:
            service.http.delete(f"/videos/{video_id}")

    def used(self, service: Service) -> None:
        """When a key was used last is noted again a minute later."""
        keys = KeyStore(service.store.client)
        key, token = keys.create("one", READ_WRITE)
        for ago, noted in ((0, True), (30, False), (61, True), (3600, True)):
            at = int(service.store.now()) - ago
            if ago:
                service.store.client.hset(f"adaspa:key:{key.id}", "last_used_at", at)
            found = keys.authenticate(token)
            assert found is not None
            keys.use(found)
            (now,) = [each.last_used_at for each in keys.all() if each.id == key.id]
            assert now is not None and (now > at or not ago) == noted, f"used {ago} s ago, and then: {now} of {at}"
        keys.revoke(key.id)


class KeyEnds(Scene):
    """A key ends while a job is followed with it that tells something all the time."""

    name = "by hand: the end of a key whose job is busy"
    promise = "what a key had opened ends soon after the key, whatever goes on"

    def play(self, stage: Stage) -> None:
        with (
            patch("adaspa_service.gateway.events.RECHECK_SECONDS", 1.0),
            patch("adaspa_service.gateway.events.HEARTBEAT_SECONDS", 0.2),
            desk(open_access=False) as service,
        ):
            keys = KeyStore(service.store.client)
            for busy in (True, False):
                key, token = keys.create("one", READ_WRITE)
                with caller(service, "127.0.0.2", token) as http:
                    self.followed(service, http, busy, lambda key=key: keys.revoke(key.id))

    def followed(self, service: Service, http: httpx.Client, busy: bool, end: Callable[[], object]) -> None:
        """The key ends once the stream has begun; it says little behind it."""
        made = http.post("/videos", json={"prompt": "a", "model": "plain"}).json()
        over = threading.Event()
        lease = service.claim(made["id"])

        def work() -> None:
            while not over.wait(0.1):
                service.step(lease, 1)

        with ThreadPoolExecutor(1) as pool, http.stream("GET", f"/videos/{made['id']}/events") as answer:
            try:
                if busy:
                    pool.submit(work)
                lines = (line for line in answer.iter_lines() if line.startswith(("id:", ":")))
                for _ in range(3):
                    next(lines)
                end()
                told = sum(1 for _ in zip(range(150), lines, strict=False))
                assert told < 150, f"a stream goes on behind the end of its key, of a busy job ({busy})"
            finally:
                over.set()
        service.store.release(lease)
        service.store.discard(made["id"])


class Asking(Scene):
    """The Python client asks a gateway that is busy, away, or lost in between."""

    name = "by hand: a client of a busy gateway"
    promise = "a client asks again as long as it may, when it was told to, and with the same key"

    def play(self, stage: Stage) -> None:
        self.slept: list[float] = []
        clock = SimpleNamespace(sleep=self.slept.append, monotonic=time.monotonic)
        with TemporaryDirectory() as name, desk() as service, patch.object(sync, "time", clock):
            self.busy(service)
            self.waits(service)
            self.deleted(service)
            self.files(service, Path(name))

    @contextmanager
    def answers(self, service: Service, *first: Any) -> Iterator[list[httpx.Request]]:
        """Some answers come instead of the gateway's: a status, or one with seconds, or None for a lost answer."""
        seen: list[httpx.Request] = []
        left, whole = list(first), httpx.HTTPTransport()

        class Transport(httpx.BaseTransport):
            def handle_request(self, request: httpx.Request) -> httpx.Response:
                seen.append(request)
                if not left:
                    return whole.handle_request(request)
                given = left.pop(0)
                if given is None:
                    whole.handle_request(request).read()
                    raise httpx.ReadError("lost", request=request)
                status, seconds = given if isinstance(given, tuple) else (given, "0")
                error = {"error": {"message": "no", "code": "x", "param": None}}
                return httpx.Response(status, headers={"Retry-After": seconds}, json=error)

        with Client(service.url, retries=3) as client:
            client._http._transport = Transport()
            client._http._mounts = {}
            self.client = client
            yield seen

    def busy(self, service: Service) -> None:
        for status in (429, 502, 503, 504):
            with self.answers(service, (status, "7"), status) as seen:
                self.slept.clear()
                video = self.client.create("a")
            keys = {request.headers["idempotency-key"] for request in seen}
            assert len(seen) == 3 and len(keys) == 1, f"{status}: asked {len(seen)} times with {len(keys)} keys"
            assert self.slept[0] == 7.0 and 0 < self.slept[1] < 7, f"{status}: waits for {self.slept}, of 7 and 0"
            assert service.http.delete(f"/videos/{video.id}").status_code == 200
        for given, tries in (((503, "11"), 1), ((500, "0"), 1), ((400, "0"), 1), ((409, "0"), 1), ((503, "10"), 2)):
            with self.answers(service, given) as seen:
                try:
                    self.client.models()
                except ApiError as error:
                    assert error.status == given[0]
                else:
                    assert tries > 1, f"{given} is taken for an answer"
            assert len(seen) == tries, f"after {given} it asks {len(seen)} times, not {tries}"
        with self.answers(service, *[503] * 9) as seen:
            try:
                self.client.models()
            except ApiError as error:
                assert (error.status, len(seen)) == (503, 4), f"3 retries are {len(seen)} requests"
            else:
                raise AssertionError("a client gets an answer that nobody gave")

    def waits(self, service: Service) -> None:
        video_id = service.completed()
        with self.answers(service, 503, 502, None) as seen:
            assert self.client.wait(video_id).status == "completed" and len(seen) == 4
        for status in (404, 401, 400):
            with self.answers(service, status) as seen:
                try:
                    self.client.wait(video_id)
                except ApiError as error:
                    assert (error.status, len(seen)) == (status, 1), f"after {status} it asks again"
                else:
                    raise AssertionError(f"a client that waits takes {status} for an answer")
        waiting = service.create()["id"]
        with (
            self.answers(service),
            patch.object(plans, "monotonic", lambda: self.slept.append(0) or 60.0 * len(self.slept)),
        ):
            try:
                self.client.wait(waiting, timeout=600)
            except TimeoutError:
                pass
            else:
                raise AssertionError("a client waits for ever")
        service.http.delete(f"/videos/{waiting}")

    def deleted(self, service: Service) -> None:
        video_id = service.create()["id"]
        with self.answers(service, None):
            self.client.delete(video_id)  # it was deleted, and the answer lost
        assert service.http.get(f"/videos/{video_id}").status_code == 404
        with self.answers(service) as seen:
            try:
                self.client.delete(video_id)
            except ApiError as error:
                assert (error.status, len(seen)) == (404, 1)
            else:
                raise AssertionError("a client deletes what is not there")

    def files(self, service: Service, folder: Path) -> None:
        """A download whose file is another one by the time that it goes on, and one that is refused."""
        video_id = service.completed()
        for number, given in enumerate((404, 409, 401)):
            path = folder / f"{number}.mp4"
            with self.answers(service, given):
                try:
                    self.client.download(video_id, path)
                except ApiError as error:
                    assert error.status == given
                else:
                    raise AssertionError(f"a download that gets {given} is done")
            assert not list(folder.glob("*")) and not list(folder.glob(".*.part")), "what was refused leaves a file"
        with self.answers(service):
            assert self.client.download(video_id, folder / "whole.mp4").read_bytes() == FILES["video"][2]


SCENES: list[Scene] = [Beside(), Leaving(), Shared(), Rung(), Repeated(), Shown(), KeyEnds(), Asking()]
