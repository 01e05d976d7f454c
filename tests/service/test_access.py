"""API keys over HTTP, and the token before there are any: who gets in, what each may do, and that nobody sees another's
jobs."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest
from adaspa_jobs.job import BOOTSTRAP_OWNER, OPEN_OWNER, JobParams, Progress
from adaspa_jobs.settings import Settings
from adaspa_service.access.caller import Caller, Callers
from adaspa_service.access.keys import ApiKey, Scope
from adaspa_service.gateway import events, feed
from admitting import admit
from drawn import picture
from faults import let_grace_pass
from plain_proxy import plain_proxy
from pydantic import SecretStr
from running_gateway import Service, data_uri, serving
from waiting import PATIENCE, until

pytestmark = pytest.mark.asks
BOTH = frozenset({Scope.read, Scope.write})
BODY = {"prompt": "a red circle"}


class Client:
    """What one key's owner does."""

    def __init__(self, service: Service, token: str, key: ApiKey | None = None) -> None:
        self.key, self.service = key, service
        self.http = httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE)

    def completed(self) -> str:
        video_id: str = self.http.post("/videos", json=BODY).json()["id"]
        self.service.complete(self.service.claim(video_id))
        return video_id

    def error(self, method: str, path: str, **request: Any) -> tuple[int, str, httpx.Headers]:
        response = self.http.request(method, path, **request)
        return response.status_code, response.json()["error"]["code"], response.headers


@pytest.fixture
def anonymous(service: Service) -> Iterator[httpx.Client]:
    """Who has neither key nor token."""
    with httpx.Client(base_url=service.url, timeout=PATIENCE) as http:
        yield http


@pytest.fixture
def client(service: Service) -> Iterator[Callable[..., Client]]:
    """Makes keys, and clients with them."""
    made: list[Client] = []

    def make(scopes: frozenset[Scope] = BOTH, **limits: int) -> Client:
        key, token = service.parts.keys.create("test", scopes, **limits)
        made.append(Client(service, token, key))
        return made[-1]

    yield make
    for one in made:
        one.http.close()


Clients = Callable[..., Client]
ROUTES = [
    ("GET", "/videos"),
    ("POST", "/videos"),
    ("POST", "/videos/estimate"),
    ("POST", "/videos/edits"),
    ("GET", "/usage"),
    ("GET", "/videos/{id}"),
    ("DELETE", "/videos/{id}"),
    ("POST", "/videos/{id}/cancel"),
    ("POST", "/videos/{id}/remix"),
    ("GET", "/videos/{id}/events"),
    ("GET", "/videos/{id}/link"),
    ("GET", "/videos/{id}/preview"),
    ("GET", "/videos/{id}/content"),
    ("HEAD", "/videos/{id}/content"),
    ("GET", "/models"),
    ("GET", "/models/demo"),
    ("GET", "/webhooks/secret"),
    ("GET", "/metrics"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_asks_for_a_key(
    service: Service, anonymous: httpx.Client, client: Clients, method: str, path: str
) -> None:
    """For the token at first, and when there is a key for that alone."""
    for video_id in (service.completed(), client().completed()):
        for prefix in ("", "/v1") if path != "/metrics" else ("",):
            address = prefix + path.format(id=video_id)
            for header in ({}, {"Authorization": "Basic dXNlcjpwYXNz"}, {"Authorization": "Bearer"}):
                response = anonymous.request(method, address, headers=header)
                assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
                if method != "HEAD":
                    error = response.json()["error"]
                    assert (error["type"], error["code"]) == ("invalid_request_error", "missing_api_key")
    assert service.http.request(method, address).status_code == 401, "there are keys now, and the token is none"


def test_every_route_of_the_api_is_in_that_list(service: Service) -> None:
    """A new route that forgets to ask who comes has its 401 missing in the document, or is not tried above."""
    document = service.http.get("/openapi.json").json()
    open_to_all = {"/v1/healthz", "/v1/readyz"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path in open_to_all:
                continue
            by_link = [{}] if path.endswith("/content") else []
            assert operation["security"] == [{"HTTPBearer": []}, *by_link], (method, path)
            assert {"401", "403", "429"} <= operation["responses"].keys()


def test_probes_and_the_page_need_no_key(anonymous: httpx.Client, client: Clients) -> None:
    for _ in range(2):
        for path in ("/healthz", "/readyz", "/", "/static/api.js", "/openapi.json"):
            assert anonymous.get(path).status_code == 200
        client()


def test_a_large_request_without_a_key_hears_why_on_a_connection_that_lasts(service: Service, client: Clients) -> None:
    client()
    url = httpx.URL(service.url)
    connection = HTTPConnection(url.host, url.port, timeout=PATIENCE)
    asked = (("POST", "/videos", b"x" * 1_000_000, 401), ("GET", "/healthz", b"", 200))
    with closing(connection):
        for _ in range(10):
            for method, path, body, status in asked:
                connection.request(method, path, body)
                with connection.getresponse() as response:
                    assert (response.status, bool(response.read())) == (status, True)


def test_a_wrong_key_is_refused(service: Service, client: Clients) -> None:
    good = client()
    token = good.http.headers["authorization"].removeprefix("Bearer ")
    other = token[:-1] + ("A" if token[-1] != "A" else "B")
    for wrong in (other, token[:-1], token + "x", f"adaspa_{'0' * 12}_{token[20:]}", "x" * 43, "é", token.upper()):
        headers = {b"Authorization": b"Bearer " + wrong.encode()}
        response = service.http.get("/videos", headers=headers)  # type: ignore[arg-type]
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key"), wrong
        assert 'error="invalid_token"' in response.headers["www-authenticate"]
    assert good.http.get("/videos").status_code == 200


def test_nobody_sees_the_jobs_of_another(service: Service, client: Clients) -> None:
    mine, yours = client(), client()
    video_id = mine.completed()
    for method, path in ROUTES:
        if "{id}" in path and method != "HEAD":
            code = yours.error(method, path.format(id=video_id), json=BODY if method == "POST" else None)[:2]
            assert code == (404, "video_not_found"), "as if it were not there"
    assert yours.http.head(f"/videos/{video_id}/content").status_code == 404
    assert yours.http.get("/videos").json()["data"] == []
    assert yours.http.get("/videos", params={"after": video_id}).json()["data"] == []
    assert [video["id"] for video in mine.http.get("/videos").json()["data"]] == [video_id]
    assert mine.http.get(f"/videos/{video_id}/content").status_code == 200


def test_nobody_sees_the_jobs_of_another_whatever_kind_of_key_each_has(
    settings: Settings, tmp_path: Path, params: Callable[..., JobParams]
) -> None:
    """Also a poll, which is answered on a way of its own, and is asked twice: a key's use is noted with the first."""
    bootstrap = "k" * 40
    with serving(settings.model_copy(update={"bootstrap_key": SecretStr(bootstrap)}), tmp_path) as service:
        (one, token), (other, others) = (service.parts.keys.create(name, BOTH) for name in ("one", "other"))
        reads: dict[str | None, str | None] = {token: one.id, others: other.id, bootstrap: BOOTSTRAP_OWNER}
        reads |= dict.fromkeys((None, "x", bootstrap + "x", bootstrap[:-1], token[:-1] + "_", service.token))
        for owner in (OPEN_OWNER, BOOTSTRAP_OWNER, one.id, other.id):
            path = f"/videos/{admit(service.store, params(), owner=owner)[0].id}"
            for given, who in reads.items():
                headers = {} if given is None else {"Authorization": f"Bearer {given}"}
                wanted = 401 if who is None else 200 if who == owner else 404
                found = {httpx.get(service.url + path, headers=headers).status_code for _ in range(2)}
                assert found == {wanted}, (owner, given)
                assert (
                    httpx.get(f"{service.url}{path}/events", headers=headers | {"Last-Event-ID": "x"}).status_code
                    != 200
                )
                listed = httpx.get(f"{service.url}/videos", headers=headers)
                assert len(listed.json().get("data", ())) <= 1 and listed.is_success == (who is not None)


@pytest.mark.parametrize(("version", "status"), [("99", 503), ("1", 410)], ids=["a later version's", "damaged"])
def test_a_record_that_cannot_be_read_is_as_good_as_none_to_others(
    service: Service, client: Clients, version: str, status: int
) -> None:
    mine, yours = client(), client()
    video_id = mine.completed()
    record = {"priority": "urgent", "schema_version": version}
    service.store.client.hset(f"adaspa:job:{video_id}", mapping=record)
    for method, path in ROUTES:
        if "{id}" in path and method not in ("HEAD", "DELETE"):
            asked = {"json": BODY if method == "POST" else None}
            assert yours.error(method, path.format(id=video_id), **asked)[:2] == (404, "video_not_found"), path
            assert mine.http.request(method, path.format(id=video_id), **asked).status_code == status, path
    assert yours.error("DELETE", f"/videos/{video_id}")[:2] == (404, "video_not_found")


def test_what_owners_share_is_counted_by_the_key_that_asks(
    service: Service, client: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turns of requests with images, lookups of receivers, and downloads of images."""
    parts, seen = service.parts, list[tuple[str, str]]()
    turn, take = parts.turns.of, parts.inputs.take

    def counted(owner: str) -> Any:
        seen.append(("turn", owner))
        return turn(owner)

    async def lookup(host: str, port: int, owner: str) -> list[str]:
        seen.append(("lookup", owner))
        return ["8.8.8.8"]

    async def taken(sources: Any, owner: str, *more: Any) -> Any:
        seen.append(("image", owner))
        return await take(sources, owner, *more)

    monkeypatch.setattr(parts.turns, "of", counted)
    monkeypatch.setattr(parts.addresses, "of", lookup)
    monkeypatch.setattr(parts.inputs, "take", taken)
    asked = BODY | {"webhook_url": "https://hooks.example.com/"}
    for one in (client(), client()):
        assert one.key is not None
        seen.clear()
        made = one.http.post("/videos", json=asked | {"model": "demo-image", "input_reference": data_uri(picture())})
        assert made.is_success, made.text
        assert seen == [(what, one.key.id) for what in ("turn", "lookup", "image")]
        for path in ("/videos/estimate", f"/videos/{made.json()['id']}/remix"):
            seen.clear()
            assert one.http.post(path, json=asked).is_success, path
            assert seen == [("turn", one.key.id), ("lookup", one.key.id)], path


def test_the_same_idempotency_key_of_two_owners_makes_two_jobs(client: Clients) -> None:
    header = {"Idempotency-Key": "order-1"}
    answers = [one.http.post("/videos", json=BODY, headers=header) for one in (client(), client())]
    assert all("idempotent-replayed" not in answer.headers for answer in answers)
    assert answers[0].json()["id"] != answers[1].json()["id"]


def test_a_key_does_what_its_scopes_say_and_no_more(service: Service, client: Clients) -> None:
    reader, writer = client(frozenset({Scope.read})), client(frozenset({Scope.write}))
    status, code, headers = reader.error("POST", "/videos", json=BODY)
    assert (status, code) == (403, "missing_scope")
    assert headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="write"'
    assert writer.http.post("/videos", json=BODY).status_code == 200
    assert writer.error("GET", "/videos")[:2] == (403, "missing_scope")
    assert reader.http.get("/models").status_code == 200
    assert reader.error("GET", "/metrics")[:2] == (403, "missing_scope")
    assert "adaspa_store_up 1.0" in client(frozenset({Scope.admin})).http.get("/metrics").text


def test_a_revoked_an_expired_and_a_rotated_key_end_at_once_in_every_gateway(
    service: Service, client: Clients, settings: Settings, tmp_path: Path
) -> None:
    one, short, rotated = client(), client(lifetime_seconds=1), client()
    assert one.key and rotated.key
    with serving(settings, tmp_path) as second:
        both = [service.url, second.url]

        def status(who: Client) -> set[int]:
            return {who.http.get(f"{url}/videos").status_code for url in both}

        assert status(one) == status(rotated) == {200}
        video_id = rotated.completed()
        assert service.parts.keys.revoke(one.key.id) and not second.parts.keys.revoke(one.key.id)
        assert status(one) == {401}
        fresh = Client(service, second.parts.keys.rotate(rotated.key.id, grace_seconds=3600) or "")
        assert status(rotated) == status(fresh) == {200}, "for the time of grace"
        let_grace_pass(service.store.client, rotated.key.id, 3601)
        until(lambda: status(short) == {401}, "a second has passed")
        assert (status(rotated), status(fresh)) == ({401}, {200})
        assert fresh.http.get(f"/videos/{video_id}").status_code == 200, "it is the same owner"
        assert service.parts.keys.rotate("0" * 12, 0) is None


@pytest.mark.parametrize("end", ["revoked", "expired", "rotated"])
def test_an_open_event_stream_ends_with_its_key(
    service: Service, client: Clients, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(events, "RECHECK_SECONDS", 0.1)
    open_id = service.create()["id"]
    with service.http.stream("GET", f"/videos/{open_id}/events") as nobodys:
        one = client()
        assert one.key
        own_id = one.http.post("/videos", json=BODY).json()["id"]
        with one.http.stream("GET", f"/videos/{own_id}/events") as own:
            list(nobodys.iter_raw())  # the first key closes the service
            lines = own.iter_lines()
            assert next(lines) == "event: queued"
            service.step(service.claim(own_id), 1)
            assert any("in_progress" in line for line in lines), "it goes on while the key holds"
            if end == "revoked":
                service.parts.keys.revoke(one.key.id)
            elif end == "rotated":
                service.parts.keys.rotate(one.key.id, grace_seconds=0)
            else:
                service.store.client.hset(f"adaspa:key:{one.key.id}", "expires_at", 1)
            list(lines)
    assert one.error("GET", f"/videos/{own_id}/events")[0] == 401


def test_a_stream_on_which_something_comes_all_the_time_ends_with_its_key_too(
    service: Service, client: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "RECHECK_SECONDS", -1.0)
    monkeypatch.setattr(feed, "TICK_SECONDS", PATIENCE)
    one = client()
    assert one.key is not None
    lease = service.claim(one.http.post("/videos", json=BODY).json()["id"])
    with one.http.stream("GET", f"/videos/{lease.job.id}/events") as own:
        lines = own.iter_lines()
        assert "event: in_progress" in lines
        service.step(lease, 1)
        assert "event: progress" in lines
        service.parts.keys.revoke(one.key.id)
        service.step(lease, 2)
        for line in lines:
            assert not line.startswith("event: "), "a key that has ended hears of its job"


def test_a_stream_tells_an_ended_key_nothing_of_what_came_while_it_was_told_of_the_job(
    service: Service, client: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "RECHECK_SECONDS", -1.0)
    monkeypatch.setattr(feed, "TICK_SECONDS", PATIENCE)
    one = client()
    assert one.key is not None
    key, read, reads = one.key.id, events.Stream.read, 0
    lease = service.claim(one.http.post("/videos", json=BODY).json()["id"])

    async def read_later(stream: events.Stream) -> list[tuple[str, dict[str, str]]]:
        nonlocal reads
        reads += 1
        if reads == 2:
            service.parts.keys.revoke(key)
            service.step(lease, 1)
        return await read(stream)

    monkeypatch.setattr(events.Stream, "read", read_later)
    with one.http.stream("GET", f"/videos/{lease.job.id}/events") as own:
        told = [line for line in own.iter_lines() if line.startswith("event: ")]
    assert (told, reads) == (["event: queued", "event: in_progress"], 2)


def test_a_limit_that_is_no_limit_refuses_nothing(client: Clients) -> None:
    one = client(requests_per_minute=10**20)
    assert [one.http.get("/videos").status_code for _ in range(3)] == [200] * 3


def test_an_answer_that_was_waited_for_does_not_tell_a_revoked_key_what_came_of_its_job(
    service: Service, client: Clients
) -> None:
    one = client()
    assert one.key
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(one.http.post, "/videos", json=BODY, headers={"Prefer": "wait=40"})
        until(lambda: service.store.client.llen("generate.demo") == 1, "the bell is rung before the wait")
        lease = service.store.claim("demo", "worker")
        assert lease
        service.parts.keys.revoke(one.key.id)
        service.complete(lease)
        answer = held.result()
    assert (answer.json()["status"], "preference-applied" in answer.headers) == ("queued", False)


@pytest.mark.parametrize("end", ["revoked", "expired"])
@pytest.mark.parametrize("path", ["/videos", "/videos/{id}/remix"])
def test_a_key_that_ends_while_its_request_comes_makes_no_job(
    service: Service, client: Clients, monkeypatch: pytest.MonkeyPatch, end: str, path: str
) -> None:
    """It would run for nobody, and whoever revoked the key with its jobs has seen no such job."""
    one = client()
    assert one.key
    path, let_in, ended = path.format(id=one.completed()), threading.Event(), threading.Event()
    identify = Callers.identify

    def identified(*asked: Any) -> Caller:
        caller = identify(*asked)
        let_in.set()
        return caller

    monkeypatch.setattr(Callers, "identify", identified)
    waiting = service.store.client.zcard("adaspa:waiting:demo")

    def body() -> Iterator[bytes]:
        yield b'{"prompt":'
        assert ended.wait(PATIENCE)
        yield b' "a red circle"}'

    with ThreadPoolExecutor(1) as pool:
        header = {"Content-Type": "application/json"}
        sent = pool.submit(one.http.post, path, content=body(), headers=header)
        assert let_in.wait(PATIENCE)
        if end == "revoked":
            service.parts.keys.revoke(one.key.id)
        else:
            service.store.client.hset(f"adaspa:key:{one.key.id}", "expires_at", int(time.time()) - 1)
        ended.set()
        answer = sent.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert service.store.client.zcard("adaspa:waiting:demo") == waiting


def test_the_token_is_as_good_as_any_key_until_there_is_one(service: Service, client: Clients) -> None:
    video_id = service.completed()
    assert service.http.get(f"/videos/{video_id}/content").status_code == 200
    assert service.http.get("/metrics").status_code == 200
    assert service.http.post(f"/videos/{video_id}/remix", json=BODY).status_code == 200
    for wrong in (service.token[:-1], service.token + "x", "none"):
        refused = service.http.get("/videos", headers={"Authorization": f"Bearer {wrong}"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    one = client()
    assert one.key
    service.parts.keys.revoke(one.key.id)
    assert service.http.get("/videos").status_code == 401, "losing its last key does not open a service"


def test_an_emptied_redis_does_not_open_a_service_that_had_keys(
    service: Service, anonymous: httpx.Client, client: Clients, settings: Settings, tmp_path: Path
) -> None:
    """Nobody gets in then, neither the token's holder nor the old key's, until there is a key again."""
    marker = service.parts.entrance.required.file
    assert not marker.parent.exists(), "a folder that nothing else has made yet"
    old = client()
    until(marker.exists, "it is noted, though nobody has asked for anything")
    service.store.client.flushall()
    with serving(settings, tmp_path) as another:  # which has not seen the key
        for who in (anonymous, service.http, old.http, another.http):
            for method, path in ROUTES:
                answer = who.request(method, path.format(id=f"video_{'0' * 32}"))
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
                assert method == "HEAD" or answer.json()["error"]["code"] == "keys_lost"
    bootstrap = {"Authorization": f"Bearer {'k' * 40}"}
    with serving(settings.model_copy(update={"bootstrap_key": SecretStr("k" * 40)}), tmp_path) as own:
        found = [own.http.get("/videos", headers=given).status_code for given in (bootstrap, {}, old.http.headers)]
        assert found == [200, 401, 401], "its operator gets in with the key of its settings, and nobody else"
    marker.unlink()
    assert service.http.get("/videos").status_code == 503, "it remembers"
    assert anonymous.get("/readyz").json()["error"]["code"] == "keys_lost"
    assert anonymous.get("/healthz").status_code == 200
    assert client().http.get("/videos").status_code == anonymous.get("/readyz").status_code == 200
    assert service.http.get("/videos").status_code == 401


def test_a_minutes_requests_may_come_at_once_and_no_more(service: Service, client: Clients) -> None:
    one, other = client(requests_per_minute=30), client()
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: one.http.get("/models/demo"), range(40)))
    meanwhile = int((time.monotonic() - began) / 2) + 1
    refused = [answer for answer in answers if answer.status_code == 429]
    assert 10 - meanwhile <= len(refused) <= 10, "one comes back every two seconds"
    assert {answer.json()["error"]["code"] for answer in refused} == {"rate_limit_exceeded"}
    while (last := one.http.get("/models/demo")).status_code == 200:
        pass  # one that has come back meanwhile
    wait = int(last.headers["retry-after"])
    assert 1 <= wait <= 2
    time.sleep(wait)
    assert one.http.get("/models/demo").status_code == 200, "Retry-After told the truth"
    assert other.http.get("/models/demo").status_code == 200


@pytest.mark.parametrize("scoped", [True, False], ids=["allowed", "without its scope"])
def test_every_request_of_a_limited_key_counts_once(
    service: Service, client: Clients, params: Callable[..., JobParams], scoped: bool
) -> None:
    """Polls too, which are answered on a way of their own, and what is refused, or a key could guess for ever."""
    for method, path in ROUTES:
        one = client(frozenset(Scope) if scoped else frozenset(), requests_per_minute=2)
        job, _ = admit(service.store, params(), owner=one.key.id if one.key else "")
        service.complete(service.claim(job.id))
        asked = {"json": BODY} if method == "POST" else {}
        answers = [one.http.request(method, path.format(id=job.id), **asked) for _ in range(3)]
        told = [answer.headers["x-ratelimit-remaining-requests"] for answer in answers]
        assert (told, answers[2].status_code) == (["1", "0", "0"], 429), path
        assert 1 <= int(answers[2].headers["retry-after"]) <= 30, path
        assert scoped or {answer.status_code for answer in answers[:2]} == {403}, path


def test_jobs_in_flight_are_limited_by_key_also_when_many_come_at_once(service: Service, client: Clients) -> None:
    one, other = client(max_in_flight=3), client()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: one.http.post("/videos", json=BODY), range(10)))
    accepted = [answer.json()["id"] for answer in answers if answer.status_code == 200]
    assert len(accepted) == service.messages() == 3
    assert one.error("POST", "/videos", json=BODY)[:2] == (429, "too_many_in_flight")
    assert other.http.post("/videos", json=BODY).status_code == 200
    lease = service.claim(accepted[0])
    service.step(lease, 3)  # which says that 1.5 s are left
    assert one.error("POST", "/videos", json=BODY)[2]["retry-after"] == "2"
    service.complete(lease)
    assert one.http.post("/videos", json=BODY).status_code == 200
    one.http.post(f"/videos/{accepted[1]}/cancel")
    assert one.http.post("/videos", json=BODY).status_code == 200


def test_a_batch_counts_as_its_jobs_and_waits_for_as_many_to_end(service: Service, client: Clients) -> None:
    one = client(max_in_flight=3)
    leases = [service.claim(one.http.post("/videos", json=BODY).json()["id"]) for _ in range(3)]
    for seconds, lease in enumerate(leases, 10):
        progress = Progress(phase="denoising", step=1, steps=24, step_kind="sparse", eta_seconds=seconds)
        service.store.report_progress(lease, progress)
    status, code, headers = one.error("POST", "/videos", json={**BODY, "n": 2})
    assert (status, code, headers["retry-after"]) == (429, "too_many_in_flight", "11")
    assert one.error("POST", "/videos", json={**BODY, "n": 4})[:2] == (400, "invalid_value"), "that will never do"
    assert service.store.unfinished(one.key.id if one.key else "") == [service.store.get(x.job.id) for x in leases]


def test_whoever_has_too_many_jobs_is_told_when_enough_of_them_will_have_ended(
    service: Service, client: Clients
) -> None:
    one = client(max_in_flight=4)
    assert one.key is not None
    for seconds in (40.2, 0.0, 7.5, 300.0):
        lease = service.claim(one.http.post("/videos", json=BODY).json()["id"])
        progress = Progress(phase="denoising", step=1, steps=24, step_kind="sparse", eta_seconds=seconds)
        service.store.report_progress(lease, progress)

    def told(n: int) -> int:
        status, code, headers = one.error("POST", "/videos", json={**BODY, "n": n})
        assert (status, code) == (429, "too_many_in_flight")
        return int(headers["retry-after"])

    assert [told(n) for n in (1, 2, 3, 4)] == [1, 8, 41, 300]
    service.store.client.hset(f"adaspa:key:{one.key.id}", "max_in_flight", 2)  # by an operator
    assert [told(n) for n in (1, 2)] == [41, 300], "two have to end before there is room for one"


def test_a_replay_does_not_count_as_another_job(client: Clients) -> None:
    one = client(max_in_flight=1)
    header = {"Idempotency-Key": "order-1"}
    first, again = (one.http.post("/videos", json=BODY, headers=header) for _ in range(2))
    assert first.json()["id"] == again.json()["id"]


def test_a_key_is_kept_as_its_digest_alone(service: Service, client: Clients) -> None:
    one = client(requests_per_minute=5)
    first, second = one.http.get("/videos"), one.http.post("/videos", json={})
    told = [
        [answer.headers[f"x-ratelimit-{what}-requests"] for what in ("limit", "remaining")]
        for answer in (first, second)
    ]
    assert told == [["5", "4"], ["5", "3"]], "also with a refusal"
    assert 12 < float(second.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 24
    secret = one.http.headers["authorization"].split("_", 2)[2].encode()
    store: Any = service.store.client
    for key in store.keys("*"):
        kept = store.hgetall(key) if store.type(key) == b"hash" else {}
        assert all(secret not in value for value in kept.values())
    (listed,) = service.parts.keys.all()
    assert (listed.name, listed.requests_per_minute) == ("test", 5)
    assert listed.last_used_at and abs(listed.last_used_at - time.time()) < 60


def test_the_bootstrap_key_works_without_any_in_the_store(settings: Settings, tmp_path: Path) -> None:
    token = "k" * 40
    with serving(settings.model_copy(update={"bootstrap_key": SecretStr(token)}), tmp_path) as service:
        assert service.http.get("/videos").status_code == 401
        service.http.headers["Authorization"] = f"Bearer {token}"
        video_id = service.completed()
        assert service.http.get(f"/videos/{video_id}").status_code == 200
        assert service.http.get("/metrics").status_code == 200


def test_a_link_ends_once_gateways_have_the_bootstrap_key_no_more(settings: Settings, tmp_path: Path) -> None:
    token, kept = "k" * 40, {"signing_secret": SecretStr("s" * 40)}
    with serving(settings.model_copy(update={**kept, "bootstrap_key": SecretStr(token)}), tmp_path) as service:
        service.http.headers["Authorization"] = f"Bearer {token}"
        link = httpx.URL(service.http.get(f"/videos/{service.completed()}/link").json()["url"])
        assert httpx.get(link).status_code == 200
        with serving(settings.model_copy(update=kept), tmp_path) as later:
            answer = later.http.get(str(link.copy_with(scheme=None, host=None, port=None)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "link_revoked")


def test_an_open_service_takes_any_key_as_clients_have_to_send_one(settings: Settings, tmp_path: Path) -> None:
    with serving(settings.model_copy(update={"open_access": True}), tmp_path) as service:
        assert service.openai().videos.list().data == []


@pytest.mark.parametrize("opened", [None, True], ids=["token", "open"])
def test_behind_a_plain_proxy_on_this_machine_only_an_open_service_is_public(
    settings: Settings, tmp_path: Path, opened: bool | None
) -> None:
    """A proxy that adds nothing cannot be told from a program of this machine."""
    with (
        serving(settings.model_copy(update={"open_access": opened}), tmp_path) as service,
        plain_proxy(service.url) as url,
        httpx.Client(base_url=url, headers={"Host": "videos.example.com"}, timeout=PATIENCE) as stranger,
    ):
        seen = {stranger.get("/videos").status_code, stranger.post("/videos", json=BODY).status_code}
        assert seen == ({200} if opened else {401})
        assert service.messages() == (1 if opened else 0)
        key = {"Authorization": f"Bearer {service.token}"}
        assert stranger.post("/videos", json=BODY, headers=key).status_code == 200


def test_pages_of_other_sites_cannot_use_an_open_service(settings: Settings, tmp_path: Path) -> None:
    """A form needs no leave from CORS, and a browser says where it comes from."""
    form = {"prompt": (None, "a red circle")}
    with serving(settings.model_copy(update={"open_access": True}), tmp_path) as service:
        for site in ("cross-site", "same-site"):
            headers = {"Origin": "https://evil.example", "Sec-Fetch-Site": site}
            response = service.http.post("/videos", files=form, headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (403, "cross_origin")
        for origin in ("https://evil.example", "null", f"{service.url}0"):  # from a browser that says no more
            response = service.http.post("/videos", files=form, headers={"Origin": origin})
            assert (response.status_code, response.json()["error"]["code"]) == (403, "cross_origin")
        assert service.messages() == 0
        for own in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": service.url}, {"Sec-Fetch-Site": "none"}):
            assert service.http.post("/videos", files=form, headers=own).status_code == 200


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"open_access": True}, {"open": True, "open after a key": True}),
        ({}, {"open": True, "open after a key": False}),
        ({"bootstrap_key": SecretStr("b" * 40)}, {"open": False, "open after a key": False, "bootstrap": True}),
    ],
    ids=["open", "with a token", "with a bootstrap key"],
)
def test_whoever_was_let_in_stays_as_long_as_a_new_request_would_be(
    settings: Settings, tmp_path: Path, changes: dict[str, Any], wanted: dict[str, bool]
) -> None:
    with serving(settings.model_copy(update=changes), tmp_path) as service:
        callers, keys = service.parts.callers, service.parts.keys
        found = {"open": callers.still_has_access(Caller(OPEN_OWNER))}
        if "bootstrap" in wanted:
            found["bootstrap"] = callers.still_has_access(Caller(BOOTSTRAP_OWNER))
        key, _ = keys.create("test", BOTH)
        short, _ = keys.create("short", BOTH, lifetime_seconds=3600)
        found["open after a key"] = callers.still_has_access(Caller(OPEN_OWNER))
        assert found == wanted
        assert callers.still_has_access(Caller(key.id)) and callers.still_has_access(Caller(short.id))
        keys.revoke(key.id)
        service.store.client.hset(f"adaspa:key:{short.id}", "expires_at", 1)
        assert not callers.still_has_access(Caller(key.id)) and not callers.still_has_access(Caller(short.id))
        service.store.client.flushall()
        assert callers.still_has_access(Caller(OPEN_OWNER)) == wanted["open after a key"], "and if Redis lost all keys"
        assert not callers.still_has_access(Caller(key.id))
        assert callers.still_has_access(Caller(BOOTSTRAP_OWNER)) or "bootstrap" not in wanted


def test_a_folder_that_cannot_note_that_there_are_keys_is_told_of_once_and_opens_nothing(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with serving(settings.model_copy(update={"data_dir": tmp_path / "file" / "data"}), tmp_path) as service:
        service.parts.keys.create("first", BOTH)
        for _ in range(3):
            assert service.http.get("/videos").status_code == 401
        service.store.client.flushall()
        assert service.http.get("/videos").status_code == 503, "this gateway remembers"
    assert caplog.text.count("cannot write") == 1 and "ADASPA_OPEN_ACCESS=false" in caplog.text
