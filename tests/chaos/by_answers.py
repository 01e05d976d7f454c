"""Scenes of what a gateway answers: every field and header, routes and methods, and who may come in."""

import json
import socket
import threading
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import httpx
from adaspa_jobs.catalog import ModelSpec
from adaspa_service.access.keys import KeyStore, Scope
from drawn import picture
from running_gateway import Service, data_uri
from waiting import PATIENCE, until

from chaos.desk import CSP, PLAIN, SAFE, announced, desk, refused, until_swept
from chaos.scenes import Scene
from chaos.stage import Stage

REQUEST = "order-17"
"""What requests are called whose lines are looked for in the audit log."""


class Answers(Scene):
    """Routes, bodies and headers of every kind."""

    name = "by hand: routes, bodies and headers"
    promise = "every answer has the status, the shape and the headers that the documents name"

    def play(self, stage: Stage) -> None:
        origin = "https://app.example"
        with desk(cors_origins=origin) as service:
            self.routes(service)
            self.bodies(service)
            self.headers(service, origin)
            self.forms(service)

    def routes(self, service: Service) -> None:
        for prefix in ("", "/v1"):
            for path in ("/healthz", "/readyz"):
                answer = service.http.get(path)
                assert (answer.status_code, answer.json()) == (200, {"status": "ok"}), path
            assert service.http.get(f"{prefix}/videos").json() == {
                **{"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
            }
            refused(service, 404, "not_found", "GET", f"{prefix}/nothing")
            refused(service, 405, "method_not_allowed", "PUT", f"{prefix}/videos")
            refused(service, 404, "model_not_found", "GET", f"{prefix}/models/none")
            for name in ("edits", "extensions", "characters"):
                refused(service, 501, "not_offered", "POST", f"{prefix}/videos/{name}")
            for video_id in ("video_" + "0" * 32, "video_x", "x" * 100):
                for method, route in (
                    ("GET", ""),
                    ("DELETE", ""),
                    ("GET", "/events"),
                    ("POST", "/cancel"),
                    ("GET", "/content"),
                    ("GET", "/link"),
                    ("GET", "/preview"),
                ):
                    refused(service, 404, "video_not_found", method, f"{prefix}/videos/{video_id}{route}")
        document = service.http.get("/openapi.json").json()
        paths = {"/videos", "/videos/estimate", "/videos/{video_id}", "/videos/{video_id}/remix", "/usage", "/models"}
        assert paths <= {path.removeprefix("/v1") for path in document["paths"]}, sorted(document["paths"])
        assert set(document["webhooks"]) == {"video.completed", "video.failed", "video.cancelled"}
        page = service.http.get("/")
        assert page.status_code == 200 and "text/html" in page.headers["content-type"]

    def bodies(self, service: Service) -> None:
        post = {"headers": {"Content-Type": "application/json"}}
        for content, what in (
            ("{", "invalid_json"),
            ("[1]", "invalid_json"),
            ("", "invalid_json"),
            ('{"prompt": NaN}', "invalid_json"),
            ('{"prompt": "a", "prompt": "b"}', "duplicate_parameter"),
            ("{}", "missing_required_parameter"),
            ('{"prompt": 1}', "prompt"),
            ('{"prompt": "a", "duration": 1}', "duration"),
            ('{"prompt": "a", "steps": "x"}', "steps"),
            ("[" * 5000, "invalid_json"),
        ):
            refused(service, 400, what, "POST", "/videos", content=content, **post)
        refused(
            service,
            415,
            "unsupported_media_type",
            "POST",
            "/videos",
            content="prompt=a",
            headers={"Content-Type": "text/plain"},
        )
        for coding in ("gzip", "br"):
            packed = {"headers": post["headers"] | {"Content-Encoding": coding}}
            found = refused(service, 415, "unsupported_media_type", "POST", "/videos", content="{}", **packed)
            assert found.headers["accept-encoding"] == "identity"
        large = json.dumps({"prompt": "a", "user": "x" * 1024 * 1024})
        assert service.http.post("/videos", content=large, **post).status_code == 413, "over 1 MiB"
        halves = (half for half in (large[:500_000].encode(), large[500_000:].encode()))  # it does not say how long
        assert service.http.post("/videos", content=halves, **post).status_code == 413, "over 1 MiB, in parts"
        refused(service, 413, "request_too_large", "POST", "/videos", files={"prompt": (None, "x" * (1024 * 1024 + 1))})
        under = json.dumps({"prompt": "a", "user": "x" * 1000 * 1000})
        refused(service, 400, "user", "POST", "/videos", content=under, **post)
        assert "seconds" in service.http.post("/videos", json={"prompt": "a", "duration": 4}).json()["error"]["message"]
        for key, good in (("", False), ("k", True), ("k" * 255, True), ("k" * 256, False)):
            answer = service.http.post("/videos", json={"prompt": "a"}, headers={"Idempotency-Key": key})
            assert answer.status_code == (200 if good else 400), f"a key of {len(key)} characters: {answer.status_code}"
        for query in (
            "limit=0",
            "limit=101",
            "limit=x",
            "order=up",
            "after=x",
            f"after=video_{'f' * 32}",
            f"after=video_{'0' * 32}",
        ):
            refused(service, 400, query.partition("=")[0], "GET", f"/videos?{query}")
        for days in ("0", "401", "x"):
            refused(service, 400, "days", "GET", f"/usage?days={days}")
        assert service.http.get("/usage?days=400").json()["days"] == 400

    def headers(self, service: Service, origin: str) -> None:
        video = service.create()
        for path in ("/videos", f"/videos/{video['id']}", "/nothing", "/models", "/healthz"):
            answer = service.http.get(path, headers={"X-Request-ID": "an-id:1/+=._"})
            found = {name: answer.headers.get(name) for name in SAFE}
            assert found == SAFE, f"{path}: {found}"
            assert answer.headers["content-security-policy"] == CSP and answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-request-id"] == "an-id:1/+=._", f"{path}: {answer.headers['x-request-id']}"
        own = {
            service.http.get("/models", headers={"X-Request-ID": given}).headers["x-request-id"]
            for given in ("a b", "x" * 129, "")
        }
        assert len(own) == 3 and all(len(each) == 32 for each in own), f"ids of requests without one: {own}"
        wait = int(service.http.get(f"/videos/{video['id']}").headers["openai-poll-after-ms"])
        assert wait == 1000, f"a job of which nothing is known is to be polled after {wait} ms"
        for asks, allowed in ((origin, True), ("https://other.example", False)):
            answer = service.http.options("/videos", headers={"Origin": asks, "Access-Control-Request-Method": "POST"})
            assert (answer.headers.get("access-control-allow-origin") == asks) == allowed, f"{asks}: {answer.headers}"
            for site in ("cross-site", "same-site"):
                status = service.http.get("/models", headers={"Origin": asks, "Sec-Fetch-Site": site}).status_code
                assert status == (200 if allowed else 403), f"a page of {asks} ({site}): {status}"
            assert service.http.get("/models", headers={"Origin": asks}).status_code == (200 if allowed else 403), asks
        exposed = (
            service.http.get("/models", headers={"Origin": origin}).headers["access-control-expose-headers"].lower()
        )
        for name in ("retry-after", "openai-poll-after-ms", "x-request-id", "idempotent-replayed", "etag"):
            assert name in exposed, f"{name} is not for pages: {exposed}"
        for site in ("same-origin", "none"):
            assert service.http.get("/models", headers={"Sec-Fetch-Site": site}).status_code == 200, site

    def forms(self, service: Service) -> None:
        """The same request in each form is the same one."""
        image = picture(80, 64)
        uri = data_uri(image)
        fields = {"prompt": "a red circle", "model": "first", "seed": 5, "size": "64x64", "n": 2, "fit": "contain"}
        labels = {"metadata": {"order": "17", "b": "c"}}
        texts = {name: str(value) for name, value in fields.items()}
        pairs = {f"metadata[{name}]": value for name, value in labels["metadata"].items()}
        conditions = [{"role": "first", "kind": "image", "url": uri}]
        file = {"input_reference": ("x.jpg", image, "image/jpeg")}
        ways: list[dict[str, Any]] = [
            {"json": fields | labels | {"input_reference": uri}},
            {"json": fields | labels | {"input_reference": {"image_url": uri}}},
            {"json": fields | labels | {"reference_url": uri}},
            {"json": fields | labels | {"image_reference": {"image_url": uri}}},
            {"json": fields | labels | {"conditions": conditions}},
            {"data": texts | pairs, "files": file},
            {"data": texts | pairs | {"input_reference": uri}, "files": {"x": None}},
            {"data": texts | pairs | {"conditions": json.dumps(conditions)}, "files": {"x": None}},
            {"data": texts | pairs | {"input_reference[image_url]": uri}, "files": {"x": None}},
        ]
        first: list[str] = []
        for number, way in enumerate(ways):
            if way.get("files") == {"x": None}:
                way["files"] = {name: (None, value) for name, value in way.pop("data").items()}
            answer = service.http.post("/videos", headers={"Idempotency-Key": "one"}, **way)
            assert answer.status_code == 200, f"way {number}: {answer.text[:300]}"
            ids = [video["id"] for video in answer.json()["data"]]
            first = first or ids
            assert ids == first, f"way {number} is another request"
            assert answer.headers.get("idempotent-replayed", "false") == ("true" if number else "false")
            assert answer.json()["data"][0]["metadata"] == labels["metadata"], answer.json()["data"][0]["metadata"]
        for wrong, what in (
            ({"conditions": "x"}, "conditions"),
            ({"conditions": [{"role": "first"}]}, "conditions"),
            ({"conditions": [{"role": "middle", "url": uri}]}, "conditions"),
            ({"input_reference": uri, "reference_url": uri}, "input_reference"),
            ({"input_reference": 5}, "input_reference"),
            ({"input_reference": "data:image/png;base64,QUJD"}, "input_reference"),
            ({"input_reference": "http://10.0.0.1/x.png"}, "input_reference"),
        ):
            refused(service, 400, what, "POST", "/videos", json={"prompt": "a", "model": "first"} | wrong)
        for name, value in (texts | pairs | {"user": "u", "steps": "4"}).items():
            once = [("prompt", (None, "a"))] * (name != "prompt")
            refused(service, 400, name, "POST", "/videos", files=[*once, *[(name, (None, value))] * 2])
        refused(service, 400, "prompt", "POST", "/videos", files={"prompt": ("a.txt", b"a")})
        refused(service, 400, "prompt", "POST", "/videos", files={"prompt": (None, b"\xff\xfe")})
        two = [("prompt", (None, "a")), ("model", (None, "first")), *[("input_reference", ("x", image))] * 2]
        refused(service, 400, "input_reference", "POST", "/videos", files=two)
        for kind in ("multipart/form-data; boundary=x", "multipart/form-data"):
            given = {
                "content": b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na',
                "headers": {"Content-Type": kind},
            }
            refused(service, 400, "invalid_multipart", "POST", "/videos", **given)
        refused(service, 400, "steps", "POST", "/videos", files={"prompt": (None, "a"), "steps": (None, "0")})


class Manners(Scene):
    """Clients that wait, that say too much or nothing, and a gateway that stops."""

    name = "by hand: clients that wait, and a gateway that stops"
    promise = "an answer is held as long as was asked, and a gateway that stops says so and answers all the same"

    def play(self, stage: Stage) -> None:
        with desk(max_connections=8) as service:
            self.waits(service)
            self.heads(service)
            self.crowd(service)
            self.places(service)
            self.streams(service)
            app = service.server.config.app
            app.state.draining.set()  # type: ignore[union-attr]
            probe = service.http.get("/readyz")
            assert (probe.status_code, probe.json()["error"]["code"]) == (503, "draining"), probe.text
            last = service.http.get("/videos")
            assert (last.status_code, last.headers["connection"]) == (200, "close"), (
                "a gateway that drains still answers"
            )
            assert service.http.get("/healthz").status_code == 200

    def waits(self, service: Service) -> None:
        for prefer, told in (
            *(
                ("wait=0", "wait=0"),
                ("respond-async, wait=0", "wait=0"),
                ("respond-async\nwait=0", "wait=0"),
                ("WAIT=0; x", "wait=0"),
                ('wait="0"', "wait=0"),
            ),
            *(("await=0", None), ("wait=x", None), ("", None)),
        ):
            lines = [("Prefer", line) for line in prefer.split("\n")]
            answer = service.http.post("/videos", json={"prompt": "a"}, headers=lines)
            assert answer.headers.get("preference-applied") == told, f"{prefer}: {answer.headers}"
            assert answer.json()["status"] == "queued"
            service.http.delete(f"/videos/{answer.json()['id']}")
        for body in ({}, {"n": 2}):
            made: list[Any] = []

            def ask(body: dict[str, Any] = body, made: list[Any] = made) -> None:
                prefer = {"Prefer": "wait=999"}
                made.append(service.http.post("/videos", json={"prompt": "a"} | body, headers=prefer))

            asking = threading.Thread(target=ask)
            asking.start()
            until(lambda body=body: len(service.store.unfinished("open")) == body.get("n", 1), "the jobs are there")
            ids = [job.id for job in service.store.unfinished("open")]
            for video_id in ids:
                assert not made, "an answer that is held came before its jobs had ended"
                service.complete(service.claim(video_id))
            asking.join()
            videos = made[0].json()["data"] if body else [made[0].json()]
            assert [video["status"] for video in videos] == ["completed"] * len(ids), "held until the end"
            assert made[0].headers["preference-applied"] == "wait=50", made[0].headers
        made = []
        asking = threading.Thread(target=ask, args=({"n": 2}, made))
        asking.start()
        until(lambda: len(service.store.unfinished("open")) == 2, "the jobs are there")
        first, second = [job.id for job in service.store.unfinished("open")]
        service.http.delete(f"/videos/{first}")
        service.complete(service.claim(second))
        asking.join()
        ids = [video["id"] for video in made[0].json()["data"]]
        assert sorted(ids) == sorted([first, second]), f"of two videos, one deleted, the answer has {ids}"
        assert "preference-applied" not in made[0].headers, "an answer without the ends says that it waited for them"

    def heads(self, service: Service) -> None:
        host, port = service.url.removeprefix("http://").split(":")
        for lines, status in (
            (["GET /healthz HTTP/1.1", "Host: a"], 200),
            (["GET /videos HTTP/1.1"], 400),
            (["GET /videos HTTP/1.1", "Host: a", "Host: b"], 400),
            (["GET /healthz HTTP/1.1", "Host: a", f"X: {'x' * 60_000}"], 200),
            (["GET /healthz HTTP/1.1", "Host: a", f"X: {'x' * 400_000}"], 431),
        ):
            with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
                with suppress(ConnectionError):  # a head that is too long is refused before it is whole
                    connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
                answer = connection.recv(4096).decode(errors="replace")
            assert answer.startswith(f"HTTP/1.1 {status} "), f"{[line[:40] for line in lines]}: {answer[:100]}"

    def crowd(self, service: Service) -> None:
        """Eight connections are all, and one that only waits for its next request makes room for another."""
        host, port = service.url.removeprefix("http://").split(":")

        def asks(text: bytes) -> socket.socket:
            connection = socket.create_connection((host, int(port)), timeout=PATIENCE)
            connection.sendall(text)
            return connection

        whole, begun = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /healthz HTTP/1.1\r\n"
        service.http.close()
        service.http = httpx.Client(base_url=service.url, timeout=PATIENCE, headers=service.http.headers)
        until(lambda: not service.server.server_state.connections, "earlier connections are over")
        idle = [asks(whole) for _ in range(8)]
        assert all(each.recv(4096).startswith(b"HTTP/1.1 200") for each in idle), "of eight connections one is refused"
        assert service.http.get("/healthz").status_code == 200, "idle connections keep another one out"
        busy = [asks(begun) for _ in range(8)]
        until(lambda: len(service.server.server_state.connections) >= 8, "eight are begun")
        refused_one = asks(b"GET /models HTTP/1.1\r\nHost: a\r\n\r\n").recv(4096).decode()
        assert refused_one.startswith("HTTP/1.1 503 ") and "retry-after: " in refused_one.lower(), refused_one[:200]
        assert asks(whole).recv(4096).startswith(b"HTTP/1.1 200"), "a probe of a crowded gateway takes it for dead"
        for each in (*idle, *busy):
            each.close()
        until(lambda: service.http.get("/models").status_code == 200, "there is room again")

    def places(self, service: Service) -> None:
        """A job waits, and its queue gets a worker."""
        video = service.create(model="plain")
        with service.http.stream("GET", f"/videos/{video['id']}/events") as answer:
            lines = answer.iter_lines()

            def told() -> tuple[int, int]:
                for line in lines:
                    assert not line.startswith(":"), "of a queue that got a worker, those who wait hear nothing"
                    if "queue_position" in line:
                        place = json.loads(line.removeprefix("data:"))
                        return place["queue_position"], place["workers"]
                raise AssertionError("the stream ends while its job waits")

            assert told() == (1, 0)
            announced(service, ModelSpec.model_validate(PLAIN), "one")
            assert told() == (1, 1)
        service.http.delete(f"/videos/{video['id']}")

    def streams(self, service: Service) -> None:
        """A quarter of eight connections is for one caller's streams."""
        video = service.create()
        path = f"/videos/{video['id']}/events"
        with (
            httpx.Client(base_url=service.url, timeout=PATIENCE) as http,
            http.stream("GET", path),
            http.stream("GET", path),
        ):
            refused(service, 429, "too_many_streams", "GET", path)
            held = service.http.post("/videos", json={"prompt": "a"}, headers={"Prefer": "wait=30"})
            assert "preference-applied" not in held.headers and held.json()["status"] == "queued"
        until(lambda: service.http.get(path, headers={"Last-Event-ID": "x"}).status_code == 400, "streams end")


class Doors(Scene):
    """Who may come in, with which key, by which name."""

    name = "by hand: who may come in"
    promise = "a service lets in whom its settings and keys say, and nobody else"

    def play(self, stage: Stage) -> None:
        with desk(open_access=None, allowed_hosts="videos.example,*.sub.example") as service:
            token = {"Authorization": f"Bearer {service.token}"}
            for given, status in (({}, 401), ({"Authorization": "Bearer x"}, 401), (token, 200)):
                found = httpx.get(f"{service.url}/videos", headers=given, timeout=PATIENCE).status_code
                assert found == status, f"{given}: {found}, not {status}"
            for host, status in (
                ("videos.example", 200),
                ("a.sub.example:80", 200),
                ("sub.example", 421),
                ("evil.example", 421),
                ("localhost", 200),
                ("x.localhost", 200),
                ("192.168.1.9:8000", 200),
                ("[::1]", 200),
                ("VIDEOS.example.", 200),
            ):
                found = service.http.get("/videos", headers={"Host": host}).status_code
                assert found == status, f"Host {host}: {found}, not {status}"
            assert service.http.get("/healthz", headers={"Host": "evil.example"}).status_code == 200, (
                "probes, by any name"
            )
            refused(service, 404, "no_secret", "GET", "/webhooks/secret")
            self.keys(service)
        with desk(open_access=False, bootstrap_key="chosen" * 8) as service:
            for given, status in (("chosen" * 8, 200), ("chosen" * 8 + "2", 401), (service.token, 401)):
                headers = {"Authorization": f"Bearer {given}"}
                found = httpx.get(f"{service.url}/metrics", headers=headers, timeout=PATIENCE).status_code
                assert found == status, f"the bootstrap key: {given}: {found}"

    def keys(self, service: Service) -> None:
        keys = KeyStore(service.store.client)
        key, first = keys.create("studio", frozenset({Scope.read, Scope.write}), requests_per_minute=60)
        assert service.http.get("/videos").status_code == 401, "the first key closes the service"

        def ask(token: str, path: str = "/videos", method: str = "GET", **more: Any) -> httpx.Response:
            headers = {"Authorization": f"Bearer {token}"}
            return httpx.request(method, f"{service.url}{path}", headers=headers, timeout=PATIENCE, **more)

        answer = ask(first)
        left = [answer.headers[f"x-ratelimit-{name}-requests"] for name in ("limit", "remaining", "reset")]
        assert left[:2] == ["60", "59"] and left[2].endswith("s") and 0 < float(left[2][:-1]) <= 1, (
            f"limits told: {left}"
        )
        assert (
            ask(first, "/metrics").status_code == 403
            and ask(first, "/metrics").json()["error"]["code"] == "missing_scope"
        )
        _, admin = keys.create("operator", frozenset({Scope.admin}))
        assert ask(admin, "/metrics").status_code == 200 and ask(admin, "/videos").status_code == 403
        _, short = keys.create("short", frozenset(Scope), lifetime_seconds=3600)
        made = ask(short, method="POST", json={"prompt": "a"}).json()
        service.complete(service.claim(made["id"]))
        link = ask(short, f"/videos/{made['id']}/link?expires_in=86400").json()
        now = service.store.now()
        assert now + 3500 < link["expires_at"] <= now + 3601, (
            f"a link outlives its key by {link['expires_at'] - now - 3600}"
        )
        signed: list[int] = []
        with patch.object(
            service.parts.storage, "signed_url", lambda _, seconds: signed.append(seconds) or "https://a"
        ):
            ask(short, f"/videos/{made['id']}/link?expires_in=86400&via=storage")
            ask(short, f"/videos/{made['id']}/link?expires_in=600&via=storage")
        assert 3500 < signed[0] <= 3601 and signed[1] == 600, f"storage signs for {signed} s, with a key of an hour"
        assert (
            ask(first, f"/videos/{made['id']}").status_code == 404
            and httpx.get(link["url"], timeout=PATIENCE).status_code == 200
        )
        listed = {each.name: each for each in keys.all()}
        assert {*listed} == {"studio", "operator", "short"} and listed["studio"].requests_per_minute == 60
        assert listed["studio"].last_used_at is not None, "when a key was used last is not noted"
        one = keys.rotate(key.id, 3600)
        two = keys.rotate(key.id, 7200)
        for token in (first, one, two):
            assert token and ask(token).status_code == 200, "secrets before, within their grace"
        three = keys.rotate(key.id, 0)
        assert [ask(str(token)).status_code for token in (first, one, two, three)] == [401, 401, 401, 200]
        slow, once = keys.create("slow", frozenset({Scope.read}), requests_per_minute=2)
        began = time.monotonic()
        found = [ask(once) for _ in range(3)]
        if (took := time.monotonic() - began) < 25:  # the next one comes back after 30 s
            assert [each.status_code for each in found] == [200, 200, 429], [each.status_code for each in found]
            assert found[2].json()["error"]["code"] == "rate_limit_exceeded"
            assert 29 - took <= int(found[2].headers["retry-after"]) <= 30, found[2].headers["retry-after"]
        assert keys.revoke(slow.id) and not keys.revoke(slow.id) and ask(once).status_code == 401
        secret = {name: ask(token, "/webhooks/secret").json()["secret"] for name, token in (("a", three), ("b", short))}
        assert len(set(secret.values())) == 2 and all(each.startswith("whsec_") for each in secret.values())
        for each in keys.all():
            keys.revoke(each.id)
        assert ask(str(three)).status_code == 401, "a service whose last key is revoked is open"
        service.store.client.delete("adaspa:keys_required")
        assert (
            ask(str(three)).json()["error"]["code"] == "keys_lost"
            and httpx.get(f"{service.url}/readyz", timeout=PATIENCE).status_code == 503
        )


class Written(Scene):
    """What keys and operators do is written to the audit log."""

    name = "by hand: the audit log"
    promise = "who created, cancelled or deleted which job is written once, without prompts and secrets"

    def play(self, stage: Stage) -> None:
        lines: list[str] = []

        def info(line: str, extra: dict[str, str]) -> None:
            if REQUEST in (extra.get("request_id"), extra.get("key")):  # others write to it meanwhile
                lines.append(line)

        with patch("adaspa_service.access.audit.log", SimpleNamespace(info=info)), desk(open_access=False) as service:
            self.act(service, lines)

    def act(self, service: Service, lines: list[str]) -> None:
        key, token = service.parts.keys.create("the studio", frozenset({Scope.read, Scope.write}))
        service.http.headers.update({"Authorization": f"Bearer {token}", "X-Request-ID": REQUEST})
        asked, once = {"prompt": "a secret wish", "n": 2}, {"Idempotency-Key": REQUEST}
        for _ in range(2):  # the second time creates nothing
            first, second = [
                video["id"] for video in service.http.post("/videos", json=asked, headers=once).json()["data"]
            ]
        remix = service.http.post(f"/videos/{first}/remix", json={"prompt": "a secret wish"}).json()["id"]
        for method, path in (
            *[("POST", f"/videos/{first}/cancel")] * 2,  # the second time there is nothing to cancel
            *[("DELETE", f"/videos/{second}")] * 2,
            ("POST", f"/videos/{second}/cancel"),
            ("GET", f"/videos/{first}"),
        ):
            service.http.request(method, path)
        done = [("created", first), ("created", second), ("created", remix), ("cancelled", first), ("deleted", second)]
        wanted = [f"event=job.{what} job={job}" for what, job in done]
        said = f'actor={key.id} actor_name="the studio" address=127.0.0.1 request_id={REQUEST}'
        assert lines == [f"{each} {said}" for each in wanted], lines
        service.parts.acts.add("key.created", key=REQUEST)
        until_swept(service, lambda: len(lines) == 6, "a gateway writes what an operator's command did")
        assert lines[5].startswith(f"event=key.created key={REQUEST} actor="), lines[5]


SCENES: list[Scene] = [Answers(), Manners(), Doors(), Written()]
