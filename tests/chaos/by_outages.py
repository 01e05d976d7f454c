"""Scenes of a gateway while a part is away, refuses, or holds what nobody can read: who waits, and what goes on."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import httpx
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.fits import Fits
from adaspa_jobs.job import SCHEMA_VERSION
from adaspa_jobs.scripts import StoreUnavailable
from adaspa_jobs.settings import Settings, SettingsError
from adaspa_jobs.storage import StorageUnavailable
from adaspa_service.access.keys import KeyStore, Scope
from adaspa_service.access.open_access import Access, Entrance
from adaspa_service.gateway import janitor
from adaspa_service.local.process import tied
from drawn import picture
from receiver import receiving
from running_gateway import FILES, Service, data_uri
from valkey_process import running_valkey, start_valkey
from waiting import PATIENCE, until

from chaos.desk import FIRST, PLAIN, SAFELY, announced, desk, error_of, refused, seat, until_swept
from chaos.scenes import Scene
from chaos.stage import Stage

READ_WRITE = frozenset({Scope.read, Scope.write})


def aside(act: Callable[[], object]) -> threading.Thread:
    """Do something in a thread of its own."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def ends(thread: threading.Thread, what: str) -> None:
    until(lambda: not thread.is_alive(), what)


class WithoutRedis(Scene):
    """Redis goes while clients follow jobs and wait for answers, and comes back."""

    name = "by hand: who waits while Redis is away"
    promise = "nobody waits for a Redis that is away, and all go on where they were when it is back"

    def play(self, stage: Stage) -> None:
        with TemporaryDirectory(prefix="valkey-") as name, receiving() as receiver:
            folder = Path(name)
            server = start_valkey(folder, *SAFELY, before=tied())
            try:
                own = {"webhook_http": True, "webhook_networks": "127.0.0.0/8", "webhook_retry_seconds": "0.1,0.1,0.1"}
                with seat(folder, lease_seconds=3600, **own) as service:
                    waits, runs = service.create(model="plain")["id"], service.create(model="plain")["id"]
                    lease = service.claim(runs)
                    service.step(lease, 1)
                    told: dict[str, list[str]] = {waits: [], runs: []}
                    ids: dict[str, str] = {}
                    threads = [
                        aside(lambda video_id=video_id: self.follow(service, video_id, told, ids)) for video_id in told
                    ]
                    held: list[httpx.Response] = []
                    asked = {"prompt": "a", "model": "plain"}
                    prefer = {"Prefer": "wait=50", "Idempotency-Key": "held"}
                    threads.append(
                        aside(
                            lambda: held.append(
                                httpx.post(f"{service.url}/videos", json=asked, headers=prefer, timeout=PATIENCE)
                            )
                        )
                    )
                    until(lambda: len(told[runs]) == 3 and told[waits], "they follow")
                    until(lambda: len(service.store.unfinished("open")) == 3, "its job is there")
                    owed = service.create(webhook_url=f"{receiver.url}/a")["id"]
                    receiver.answers = [500]
                    service.http.post(f"/videos/{owed}/cancel")
                    until(lambda: receiver.calls, "its receiver is asked")
                    server.kill()
                    server.wait()
                    for thread in threads:
                        ends(thread, "whoever follows or waits while Redis is away is told so")
                    assert (held[0].status_code, held[0].json()["status"]) == (200, "queued"), held[0].text
                    assert "preference-applied" not in held[0].headers, "an answer that did not wait says that it did"
                    self.away(service, waits)
                    server = start_valkey(folder, *SAFELY, before=tied())
                    until(lambda: service.http.get("/readyz").status_code == 200, "it is ready again")
                    again = service.http.post("/videos", json=asked, headers={"Idempotency-Key": "held"})
                    assert again.json()["id"] == held[0].json()["id"], "a job that was accepted is made again"
                    self.goes_on(service, lease, waits, runs, ids)
                    until(lambda: len(receiver.calls) == 2, "an event that was owed before is delivered")
                    assert len({*receiver.ids()}) == 1
            finally:
                server.kill()
                server.wait()

    def follow(self, service: Service, video_id: str, told: dict[str, list[str]], ids: dict[str, str]) -> None:
        with httpx.stream("GET", f"{service.url}/videos/{video_id}/events", timeout=PATIENCE) as answer:
            for line in answer.iter_lines():
                kind, _, value = line.partition(": ")
                if kind == "event":
                    told[video_id].append(value)
                if kind == "id":
                    ids[video_id] = value

    def away(self, service: Service, video_id: str) -> None:
        for method, path in (
            *(("GET", f"/videos/{video_id}"), ("GET", f"/v1/videos/{video_id}/events"), ("GET", "/videos")),
            *(("DELETE", f"/videos/{video_id}"), ("POST", f"/videos/{video_id}/cancel"), ("GET", "/usage")),
            *(("GET", f"/videos/{video_id}/content"), ("GET", f"/videos/{video_id}/link"), ("GET", "/readyz")),
        ):
            found = refused(service, 503, "service_unavailable", method, path)
            assert "valkey" not in found.text, f"{method} {path} tells of the inside: {found.text}"
        refused(service, 503, "service_unavailable", "POST", "/videos", json={"prompt": "a"})
        assert service.http.get("/healthz").status_code == 200, "a gateway whose Redis is away is dead"
        assert "adaspa_store_up 0.0" in service.http.get("/metrics").text

    def goes_on(self, service: Service, lease: Any, waits: str, runs: str, ids: dict[str, str]) -> None:
        told: dict[str, list[str]] = {waits: [], runs: []}
        first = aside(lambda: self.follow(service, waits, told, {}))
        until(lambda: told[waits], "whoever comes again follows")
        headers = {"Last-Event-ID": ids[runs]}
        with httpx.stream("GET", f"{service.url}/videos/{runs}/events", headers=headers, timeout=PATIENCE) as answer:
            service.step(lease, 2)
            service.complete(lease)
            found = [line.removeprefix("event: ") for line in answer.iter_lines() if line.startswith("event: ")]
        assert found == ["progress", "completed"], f"whoever had the events before an outage gets {found}"
        service.complete(service.claim(waits))
        ends(first, "a stream ends with its job")
        assert told[waits][-2:] == ["in_progress", "completed"], told[waits]
        assert "adaspa_store_up 1.0" in service.http.get("/metrics").text


class Away:
    """Storage that does not answer, in the place of the library that asks it."""

    def __getattr__(self, name: str) -> Any:
        async def later(*_: Any, **__: Any) -> None:
            raise OSError("connection refused")

        return later if name.endswith("_async") else raising(OSError("connection refused"))


class WithoutStorage(Scene):
    """Storage goes while clients ask for all kinds of things, and comes back."""

    name = "by hand: what is served while storage is away"
    promise = "whatever needs no file goes on without storage, and the rest is told to come again"

    def play(self, stage: Stage) -> None:
        image = data_uri(picture(64, 64))
        with desk() as service:
            done, gone, waits = service.completed(), service.completed(), service.create()["id"]
            with patch("adaspa_jobs.storage.obstore", Away()):
                for method, path, options in (
                    ("GET", "/readyz", {}),
                    ("GET", f"/videos/{done}/content", {}),
                    ("GET", f"/videos/{done}/content?variant=thumbnail", {"headers": {"Range": "bytes=0-3"}}),
                    ("POST", "/videos", {"json": {"prompt": "a", "model": "first", "input_reference": image}}),
                ):
                    found = refused(service, 503, "service_unavailable", method, path, **options)
                    assert "objects" not in found.text, f"{method} {path} tells of the inside: {found.text}"
                assert service.http.head(f"/videos/{done}/content").status_code == 503
                for method, path in (
                    *(("GET", "/healthz"), ("GET", f"/videos/{done}"), ("GET", "/videos"), ("GET", "/metrics")),
                    *(("POST", f"/videos/{waits}/cancel"), ("DELETE", f"/videos/{gone}"), ("GET", "/models")),
                    ("GET", f"/videos/{done}/link"),
                ):
                    status = service.http.request(method, path).status_code
                    assert status == 200, f"{method} {path} while storage is away: {status}"
                refused(service, 404, "video_not_found", "GET", f"/videos/{gone}")
                made = service.create(model="first")["id"]
                assert len(service.store.unfinished("open")) == 1, "a request without its image made a job"
            assert service.http.get("/readyz").status_code == 200, "a gateway whose storage is back is not ready"
            assert service.http.get(f"/videos/{done}/content").content == FILES["video"][2]
            service.store.client.zadd("adaspa:purge", {gone: 0})
            until_swept(service, lambda: service.store.get(gone) is None, "what was deleted meanwhile goes")
            assert service.parts.storage.keys(f"videos/{gone}/") == []
            service.complete(service.claim(made))


class Refusals(Scene):
    """Storage refuses one thing, or a janitor's chore cannot be done."""

    name = "by hand: chores of which one cannot be done"
    promise = "what cannot be removed or done now keeps nothing else from it, and is done later"

    def play(self, stage: Stage) -> None:
        with desk(lease_seconds=3600) as service:
            self.kept(service)
            self.unlisted(service)
            self.chores(service)

    def kept(self, service: Service) -> None:
        """Of one video no file can be removed."""
        storage, delete = service.parts.storage, service.parts.storage.delete
        ids = [service.completed() for _ in range(4)]
        stuck = sorted(ids)[0]

        def refuses(key: str) -> None:
            if stuck in key:
                raise StorageUnavailable("permission denied")
            delete(key)

        with patch.object(storage, "delete", refuses):
            for video_id in ids:
                service.store.discard(video_id)
            for video_id in ids:
                if video_id != stuck:
                    until_swept(
                        service,
                        lambda video_id=video_id: (
                            not storage.keys(f"videos/{video_id}/") and service.store.get(video_id) is None
                        ),
                        "one that cannot be removed keeps none of the others from it",
                    )
            assert service.store.get(stuck) is not None and len(storage.keys(f"videos/{stuck}/")) == 3
            answer = service.http.delete(f"/videos/{service.completed()}")
            assert answer.status_code == 200, f"a deletion beside one that is refused: {answer.text}"
        service.store.client.zadd("adaspa:purge", {stuck: 0})
        until_swept(service, lambda: service.store.get(stuck) is None, "it is removed once storage allows it")
        assert storage.keys(f"videos/{stuck}/") == []

    def unlisted(self, service: Service) -> None:
        """Storage lists nothing; what the record names goes all the same."""
        storage, keys = service.parts.storage, service.parts.storage.keys
        video_id = service.completed()
        with patch.object(storage, "keys", raising(StorageUnavailable("listing denied"))):
            assert service.http.delete(f"/videos/{video_id}").status_code == 200
            refused(service, 404, "video_not_found", "GET", f"/videos/{video_id}")
            until_swept(
                service,
                lambda: not keys(f"videos/{video_id}/"),
                "files that the record names go though nothing is listed",
            )
            assert service.store.get(video_id) is not None, "its record goes before what else there may be of it"
        service.store.client.zadd("adaspa:purge", {video_id: 0})
        until_swept(service, lambda: service.store.get(video_id) is None, "its record goes once storage lists again")

    def chores(self, service: Service) -> None:
        """Each chore fails in turn, in each way."""
        keeper = janitor.Janitor(service.parts)
        for error in (StoreUnavailable("one command"), StorageUnavailable("one object"), RuntimeError("a mistake")):
            for thread, chores in list(keeper._chores.items()):
                for failing in chores:
                    done: list[str] = []

                    def note(
                        chore: Any, done: list[str] = done, failing: Any = failing, error: Exception = error
                    ) -> Any:
                        def act() -> None:
                            done.append(chore.__name__)
                            if chore is failing:
                                raise error

                        act.__name__ = chore.__name__
                        return act

                    keeper._do([note(chore) for chore in chores])
                    wanted = [chore.__name__ for chore in chores]
                    assert done == wanted, f"{thread}: after {failing.__name__} failed ({error}) only {done} are done"


def raising(error: Exception) -> Callable[..., Any]:
    """A function that only raises."""

    def function(*_: Any, **__: Any) -> Any:
        raise error

    return function


OVER = "#!lua flags=allow-oom\nredis.call('ZADD', KEYS[1], 0, ARGV[1])"
"""Lets a job's time be over, also in a Redis that is full."""


class Full(Scene):
    """Redis has no memory left."""

    name = "by hand: a Redis that is full"
    promise = "a Redis that is full takes nothing new, and everything that ends or goes, goes on"

    def play(self, stage: Stage) -> None:
        own = {"webhook_http": True, "webhook_networks": "127.0.0.0/8", "webhook_retry_seconds": "0.1,0.1,0.1"}
        with receiving() as receiver, desk(open_access=False, queue_cap=1000, lease_seconds=3600, **own) as service:
            client, store = service.store.client, service.store
            key, token = KeyStore(client).create("one", READ_WRITE, requests_per_minute=10_000)
            service.http.headers["Authorization"] = f"Bearer {token}"
            names = ("completed", "failed", "cancelled", "released", "worker's", "lost", "followed")
            leases = {name: service.claim(service.create()["id"]) for name in names}
            deleted, expired, shared = service.completed(), service.completed(), service.create()["id"]
            late, told = service.create()["id"], service.create(webhook_url=f"{receiver.url}/a")["id"]
            until(lambda: client.exists("adaspa:swept_at"), "a janitor has looked")
            client.zadd("adaspa:expiry", {expired: 10**15})
            receiver.answers = [500]
            client.config_set("maxmemory", 1)
            refused(service, 503, "service_unavailable", "POST", "/videos", json={"prompt": "a"})
            assert service.http.get(f"/videos/{late}").json()["queue_position"], "who asks is not answered"
            try:
                taken = store.claim("first", "by hand")
            except StoreUnavailable:
                taken = None
            assert taken is None, "a job begins that a full Redis cannot note"
            store.announce(service.parts.catalog.models["first"], "by hand")
            store.renew(leases["followed"])
            service.step(leases["followed"], 1)
            service.complete(leases["completed"])
            store.fail(leases["failed"], error_of("not_finite"))
            store.release(leases["released"])
            store.requeue_after_worker_error(leases["worker's"], error_of("storage_unavailable"))
            service.http.post(f"/videos/{leases['cancelled'].job.id}/cancel")
            store.release_cancelled(leases["cancelled"])
            for video_id in (shared, told):
                assert service.http.post(f"/videos/{video_id}/cancel").json()["status"] == "cancelled", "a cancel waits"
            assert service.http.delete(f"/videos/{deleted}").status_code == 200, "a deletion waits"
            until_swept(service, lambda: store.get(deleted) is None, "what is deleted makes room")
            owed = service.parts.deliveries
            until(lambda: owed.get(told) is None or len(receiver.calls) > 2, "its event is delivered")
            assert len(receiver.calls) == 2, f"an event that was refused once is sent {len(receiver.calls)} times"
            for name, hit in (("expiry", expired), ("leases", leases["lost"].job.id), ("arrivals:first", late)):
                client.eval(OVER, 1, f"adaspa:{name}", hit)
            until_swept(service, lambda: store.get(expired) is None, "what is over expires")
            until_swept(service, lambda: store.get(leases["lost"].job.id).status == "queued", "lost jobs come back")  # type: ignore[union-attr]
            until_swept(service, lambda: store.get(late).status == "failed", "a job that waited too long fails")  # type: ignore[union-attr]
            client.config_set("maxmemory", 0)
            ends = {name: str(store.get(lease.job.id).status) for name, lease in leases.items()}  # type: ignore[union-attr]
            wanted = dict(zip(names, ("completed", "failed", "cancelled", *["queued"] * 3, "in_progress"), strict=True))
            assert ends == wanted, f"in a full Redis jobs end as {ends}"
            assert service.create()["status"] == "queued", "a Redis with room again takes nothing"
            assert key.requests_per_minute == 10_000


DAMAGE: dict[str, Callable[[Any, str], object]] = {
    "params are not JSON": lambda client, key: client.hset(key, "params", "{oops"),
    "no model": lambda client, key: client.hdel(key, "model"),
    "cost is no number": lambda client, key: client.hset(key, "cost", "much"),
    "no attempt": lambda client, key: client.hdel(key, "attempt"),
    "no owner": lambda client, key: client.hdel(key, "owner"),
    "all of it": lambda client, key: client.delete(key),
}


class Damaged(Scene):
    """Records in Redis that nobody can read, or that only a later version can."""

    name = "by hand: records that cannot be read"
    promise = "a record that is damaged or gone costs its own job, and nothing goes on less well for it"

    def play(self, stage: Stage) -> None:
        with desk(open_access=False) as service:
            other = KeyStore(service.store.client).create("other", READ_WRITE)[1]
            for phase in ("queued", "running", "completed"):
                for what, damage in DAMAGE.items():
                    mine = KeyStore(service.store.client).create("mine", READ_WRITE)[1]
                    service.http.headers["Authorization"] = f"Bearer {mine}"
                    self.damaged(service, phase, what, damage, {"Authorization": f"Bearer {other}"})
            self.later(service)
            self.unread(service)

    def unread(self, service: Service) -> None:
        """A record that scripts can read, and workers cannot: each gives it back, and in the end it has failed."""
        hit, after = (service.create()["id"] for _ in range(2))
        service.store.client.hset(f"adaspa:job:{hit}", "params", json.dumps({"steps": 4}))
        for attempt in (1, 2, 3):
            assert service.store.claim("first", f"by hand {attempt}") is None, "a worker gets what it cannot read"
        lease = service.store.claim("first", "by hand")
        assert lease is not None and lease.job.id == after, "a job that no worker can read holds up those behind it"
        service.complete(lease)
        fields = service.store.client.hgetall(f"adaspa:job:{hit}")
        error = json.loads(fields[b"error"])["code"]
        assert (fields[b"status"], error, fields[b"worker_errors"]) == (b"failed", "record_damaged", b"3"), fields
        assert service.http.get(f"/videos/{hit}").json()["error"]["code"] == "record_damaged"
        assert service.http.delete(f"/videos/{hit}").status_code == 200

    def damaged(
        self,
        service: Service,
        phase: str,
        what: str,
        damage: Callable[[Any, str], object],
        other: dict[str, str],
    ) -> None:
        said, client, store = f"{what}, {phase}", service.store.client, service.store
        before, hit, after = (service.create()["id"] for _ in range(3))
        lease = None if phase == "queued" else service.claim(hit)
        if lease and phase == "completed":
            service.complete(lease)
        damage(client, f"adaspa:job:{hit}")
        known = what not in ("all of it", "no owner")
        pages = [each for each in self.pages(service) if each != hit]
        assert pages == [after, before], f"{said}: pages beside it have {pages}"
        shown = service.http.get(f"/videos/{hit}").status_code
        assert shown in ((200, 410) if known else (404,)), f"{said}: its owner gets {shown}"
        found = httpx.get(f"{service.url}/videos/{hit}", headers=other, timeout=PATIENCE).status_code
        assert found == 404, f"{said}: another key gets {found}"
        for wanted in (before, after):
            taken = store.claim("first", f"by hand {wanted}")
            assert taken is not None and taken.job.id == wanted, f"{said}: instead of {wanted} a worker gets {taken}"
            service.complete(taken)
        if phase == "running":
            client.zadd("adaspa:leases", {hit: 0}, xx=True)
        until_swept(service, lambda: client.zscore("adaspa:leases", hit) is None, f"{said}: its lease goes")
        if known:
            if phase != "completed":
                failed = service.http.get(f"/videos/{hit}").json()
                code = failed["error"] and failed["error"]["code"]
                assert code == "record_damaged", f"{said}: its owner is told {str(failed)[:500]}"
            assert service.http.delete(f"/videos/{hit}").status_code == 200, f"{said}: its owner cannot delete it"
            refused(service, 404, "video_not_found", "GET", f"/videos/{hit}")
            until_swept(service, lambda: not client.exists(f"adaspa:job:{hit}"), f"{said}: its record goes")
        load = store.load("first")
        assert (load.waiting, load.running) == (0, 0), f"{said}: of an empty queue is told {load}"
        assert not client.hgetall("adaspa:backlog"), f"{said}: a backlog of nothing: {client.hgetall('adaspa:backlog')}"

    def pages(self, service: Service) -> Iterator[str]:
        after = ""
        while True:
            page = service.http.get(f"/videos?limit=1{after}").json()
            yield from (video["id"] for video in page["data"])
            if not page["has_more"]:
                return
            after = f"&after={page['last_id']}"

    def later(self, service: Service) -> None:
        """A job that only a later version's worker can run waits for one, and the rest goes on."""
        hit, after = (service.create()["id"] for _ in range(2))
        changed = {"schema_version": SCHEMA_VERSION + 1, "params": json.dumps({"steps": 4, "new": "x"})}
        service.store.client.hset(f"adaspa:job:{hit}", mapping=changed)
        for method, path in (("GET", ""), ("POST", "/cancel"), ("DELETE", "")):
            found = service.http.request(method, f"/videos/{hit}{path}")
            assert found.status_code == 503 and "retry-after" in found.headers, f"{method} {path}: {found.status_code}"
        lease = service.store.claim("first", "one")
        assert lease is not None and lease.job.id == after, "a job for a later version holds up those behind it"
        service.complete(lease)
        assert service.store.claim("first", "one") is None and service.store.client.zcard("adaspa:waiting:first") == 1


ODD = ("{oops", '{"of_a_later_version": {}}', "[1]", "7", "")
"""What may stand where this version expects a document of its own."""


class Unread(Scene):
    """What workers and gateways of another version leave in Redis beside jobs, or what is damaged there."""

    name = "by hand: documents that cannot be read"
    promise = "a document in Redis that this version cannot read fails no request, and no chore of a gateway"

    def play(self, stage: Stage) -> None:
        hook = {"webhook_url": "http://127.0.0.1:9/a"}
        with desk(webhook_http=True, webhook_networks="127.0.0.0/8") as service:
            client, done = service.store.client, service.completed(model="first", **hook)
            waits, fits = service.create(model="first")["id"], Fits(limit=9, frames={"": {"64x64": 99}})
            for worker, model in (("one", FIRST), ("two", PLAIN | {"id": "other"})):
                announced(service, ModelSpec.model_validate(model), worker, fits=fits)
            asked = {"prompt": "a", "model": "first"}
            asks: list[tuple[str, str, dict[str, Any]]] = [
                *(("GET", path, {}) for path in ("/models", "/models/first", "/videos", "/usage", "/metrics")),
                *(("GET", f"/videos/{video_id}", {}) for video_id in (done, waits)),
                *(("POST", path, {"json": asked}) for path in ("/videos/estimate", "/videos")),
            ]
            chores = [chore for thread in janitor.Janitor(service.parts)._chores.values() for chore in thread]
            for key, field in (
                *(("served", "other"), ("fits:first", "one"), ("fits:other", "two")),
                *(("times:first:default", ""), (f"webhook:{done}", "record"), ("acts", "")),
            ):
                for odd in ODD:
                    said = f"{odd!r} in {key}"
                    if field:
                        client.hset(f"adaspa:{key}", field, odd)
                    else:
                        client.lpush(f"adaspa:{key}", odd)
                    for chore in chores:
                        chore()
                    for method, path, options in asks:
                        found = service.http.request(method, path, **options)
                        assert found.status_code == 200, (
                            f"{said}: {method} {path}: {found.status_code} {found.text[:99]}"
                        )
                    service.http.delete(f"/videos/{found.json()['id']}")


class Emptied(Scene):
    """Redis comes back empty, or is another one, to a gateway that goes on and to one that starts."""

    name = "by hand: a Redis without the keys"
    promise = "a service that ever had a key lets nobody in without one, whatever becomes of its Redis and itself"

    def play(self, stage: Stage) -> None:
        with running_valkey(*SAFELY) as folder:
            with seat(folder, open_access=None) as service:
                token = {"Authorization": f"Bearer {service.token}"}
                assert httpx.get(f"{service.url}/videos", headers=token).status_code == 200
                key, made = service.parts.keys.create("one", READ_WRITE)
                assert httpx.get(f"{service.url}/videos", headers=token).status_code == 401
                service.parts.keys.revoke(key.id)
                assert httpx.get(f"{service.url}/videos", headers=token).status_code == 401, "its last key opens it"
                service.store.client.flushall()
                self.lost(service, token, {"Authorization": f"Bearer {made}"})
            with seat(folder, open_access=None) as service:  # another process, which has seen no key
                token = {"Authorization": f"Bearer {service.token}"}
                self.lost(service, token, {"Authorization": f"Bearer {made}"})
                self.starts(service.parts.settings, service)
                marker = service.parts.settings.data_dir / "keys_required"
                marker.unlink()
                with seat(folder, open_access=None) as opened:
                    own = {"Authorization": f"Bearer {opened.token}"}
                    assert httpx.get(f"{opened.url}/videos", headers=own).status_code == 200, "its operator opened it"

    def lost(self, service: Service, *headers: dict[str, str]) -> None:
        for given in ({}, *headers):
            for path in ("/videos", "/models", "/usage", "/v1/videos/video_" + "0" * 32):
                found = httpx.get(f"{service.url}{path}", headers=given, timeout=PATIENCE)
                assert found.status_code == 503, f"{path} of a service that lost its keys: {found.status_code}"
                assert found.json()["error"]["code"] == "keys_lost" and "retry-after" in found.headers, found.text
        assert httpx.get(f"{service.url}/readyz", timeout=PATIENCE).status_code == 503
        assert httpx.get(f"{service.url}/healthz", timeout=PATIENCE).status_code == 200

    def starts(self, settings: Settings, service: Service) -> None:
        """Whether a gateway starts, by what it finds."""
        keys, data_dir = KeyStore(service.store.client), settings.data_dir
        own = {"redis_url": settings.redis_url, "storage_url": settings.storage_url}

        def entrance(folder: Path, **more: Any) -> Entrance:
            return Entrance(Settings(_env_file=None, **(own | {"data_dir": folder} | more)), keys)

        fresh = data_dir / "fresh"
        for folder, more, access, refuses in (
            (data_dir, {}, Access.lost, "keys_required"),
            (data_dir, {"host": "0.0.0.0"}, Access.lost, "keys_required"),
            (data_dir, {"open_access": True}, Access.everybody, ""),
            (data_dir, {"bootstrap_key": "b" * 40}, Access.keys, ""),
            (fresh, {}, Access.token, ""),
            (fresh, {"host": "0.0.0.0"}, Access.keys, "reachable from other machines"),
            (fresh, {"host": "0.0.0.0", "open_access": True}, Access.everybody, ""),
            (fresh, {"host": "0.0.0.0", "bootstrap_key": "b" * 40}, Access.keys, ""),
            (fresh, {"host": "::1"}, Access.token, ""),
            (fresh, {"open_access": False}, Access.keys, ""),
        ):
            door = entrance(folder, **more)
            assert door.now() is access, f"{folder.name} {more}: {door.now()}, not {access}"
            try:
                door.check()
            except SettingsError as error:
                assert refuses and refuses in str(error), f"{folder.name} {more}: {error}"
            else:
                assert not refuses, f"{folder.name} {more}: a gateway starts that is to say {refuses!r}"


SCENES: list[Scene] = [WithoutRedis(), WithoutStorage(), Refusals(), Full(), Damaged(), Unread(), Emptied()]
