"""Scenes of what people use: the command line, the Python client, and the tables of the documents."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from adaspa_client import AsyncClient, BadRequest, Client, NotFound
from adaspa_client.events import EventReader
from adaspa_command import adaspa
from adaspa_jobs.catalog import Catalog, CatalogError
from adaspa_jobs.settings import Settings
from adaspa_jobs.store import JobStore
from adaspa_service.access.keys import KeyStore
from admitting import admit
from drawn import picture
from field_tables import DOCS, TABLES, filled
from flaky_proxy import FlakyProxy
from pydantic import ValidationError
from receiver import receiving
from running_gateway import FILES, Service
from tiny_catalog import model_spec, write_catalog
from waiting import until

from chaos.desk import desk, error_of
from chaos.scenes import Scene
from chaos.stage import Stage

WRONG_MODELS: list[tuple[dict[str, Any], str]] = [
    ({"id": "tiny"}, "twice"),
    ({"id": "A"}, "id"),
    ({"default_frames": 7}, "default_frames"),
    ({"fps": 31}, "fps"),
    ({"default_steps": 0}, "steps"),
    ({"steps_range": [9, 3]}, "steps_range"),
    ({"default_guidance": 11.0}, "guidance"),
    ({"sizes": []}, "sizes"),
    ({"sizes": ["64"]}, "sizes"),
    ({"bulk_above": 0.5}, "bulk_above"),
    ({"warmup_range": [0.5, 0.1]}, "warmup_range"),
    ({"gpus": 2, "parallelism": {"guidance": 1, "ulysses": 1}}, "parallelism"),
    ({"negative_prompt": True, "guidance_range": [1.0, 1.0], "default_guidance": 1.0}, "negative_prompt"),
    ({"loras": [{"name": "a", "source": "x", "sha256": "ab" * 32}] * 2}, "loras"),
    ({"loras": [{"name": "a", "source": "x", "sha256": "ab" * 32, "scale": 3.0}]}, "loras"),
    ({"default_loras": [{"name": "none"}]}, "default_loras"),
    ({"memory": {"quantization": "int8", "storage_dtype": "float8_e4m3fn"}}, "memory"),
    ({"memory": {"quantization": "float8"}}, "memory.quantization"),
    ({"colour": 1}, "colour"),
]
"""What a catalog must not have, and what its error has to name."""
WRONG_SETTINGS: list[tuple[str, Any]] = [
    *(("lease_seconds", 0), ("max_attempts", 0), ("queue_cap", 0), ("bulk_share", 1.5), ("port", 70_000)),
    *(("webhook_secrets", "whsec_x"), ("log_level", "loud"), ("webhook_networks", "10.0.0.0/99")),
    *(("bootstrap_key", "short"), ("prompt_check_failure", "maybe"), ("result_ttl_seconds", -1)),
]
VIDEO = FILES["video"][2]


class Documented(Scene):
    """The documents' tables of settings, catalog and requests."""

    name = "by hand: what the documents say"
    promise = "names, defaults and meanings of all fields are as the documents say"

    def play(self, stage: Stage) -> None:
        for page in TABLES:
            assert filled(page) == (DOCS / page).read_text(), f"docs/{page} says something else than the service does"
        for changes, what in WRONG_MODELS:
            self.refuses(Catalog.load, changes, what)
        for name, value in WRONG_SETTINGS:
            try:
                Settings(_env_file=None, **{name: value})
            except ValidationError as error:
                assert name in str(error), f"{name} {value!r}: {error}"
                continue
            raise AssertionError(f"the setting {name} takes {value!r}")

    def refuses(self, load: Callable[[Path], object], changes: dict[str, Any], what: str) -> None:
        with TemporaryDirectory() as name:
            path = write_catalog(
                Path(name) / "catalog.json",
                model_spec("builtin:demo"),
                model_spec("builtin:demo", **{"id": "second"} | changes),
            )
            try:
                load(path)
            except CatalogError as error:
                assert what in str(error), f"{changes}: {error}"
                return
        raise AssertionError(f"a catalog takes {changes}")


class Programs(Scene):
    """A program uses the client, over a network that cuts connections."""

    name = "by hand: the Python client"
    promise = "a program makes, follows and fetches each video once, however often its connection breaks"

    def play(self, stage: Stage) -> None:
        with desk() as service, TemporaryDirectory() as name, Client(service.url, retries=4) as client:
            self.whole(service, client, Path(name))
            self.places()
            host, port = service.url.removeprefix("http://").split(":")
            self.cut(service, (host, int(port)), Path(name))
            asyncio.run(self.awaited(service, Path(name)))

    async def awaited(self, service: Service, folder: Path) -> None:
        """The same by the client for programs that await."""
        async with AsyncClient(service.url) as client:
            first, second = await client.create_batch("a", 2, seed=5, metadata={"of": "awaited"})
            listed = [video.id async for video in client.list(page_size=1, metadata={"of": "awaited"})]
            assert listed == [second.id, first.id] and (first.seed, second.seed) == (5, 6), listed
            service.complete(service.claim(first.id))
            assert (await client.wait(first.id)).status == "completed"
            assert [event.type async for event in client.events(first.id)] == ["queued", "in_progress", "completed"]
            assert (await client.download(first.id, folder / "awaited.mp4")).read_bytes() == VIDEO
            remix = await client.remix(first.id, "b")
            assert (await client.cancel(remix.id)).status == "cancelled" and (await client.get(remix.id)).seed == 5
            await client.delete(second.id)
            for kind, act in ((NotFound, client.get(second.id)), (BadRequest, client.create("c", steps=0))):
                try:
                    await act
                except kind as error:
                    assert error.message
                    continue
                raise AssertionError(f"no {kind.__name__}")
            assert (await client.usage()).days == 30 and len(await client.models()) == 2
            assert (await client.estimate()).qualities and str(await client.link(first.id)).startswith("http")

    def whole(self, service: Service, client: Client, folder: Path) -> None:
        first = client.create("a", seed=7, quality="fast", metadata={"of": "odd"}, user="u")
        assert (first.seed, first.quality, first.metadata, first.user) == (7, "fast", {"of": "odd"}, "u"), first
        batch = client.create_batch("b", 3, seed=9)
        assert [video.seed for video in batch] == [9, 10, 11] and all(video.prompt == "b" for video in batch)
        image = client.create("c", model="first", image=picture(96, 64), last_image=picture(64, 64))
        assert (image.task, image.size) == ("first_last_frame", "96x64"), (image.task, image.size)
        made = [first.id, *(video.id for video in batch), image.id]
        assert [video.id for video in client.list(page_size=2)] == made[::-1], "pages of two"
        assert [video.id for video in client.list("asc", page_size=3, after=made[0])] == made[1:]
        assert [video.id for video in client.list(metadata={"of": "odd"})] == [first.id]
        service.complete(service.claim(first.id))
        ended = client.wait(first.id)
        assert ended == client.get(first.id) and ended.done and ended.status == "completed"
        told = [event.type for event in client.events(first.id)]
        assert told == ["queued", "in_progress", "completed"], told
        assert client.download(first.id, folder / "out.mp4").read_bytes() == VIDEO
        assert client.download(first.id, folder / "t.webp", "thumbnail").read_bytes() == FILES["thumbnail"][2]
        assert httpx.get(client.link(first.id), timeout=600).content == VIDEO
        remix = client.remix(first.id, "d")
        assert (remix.seed, remix.prompt, remix.remixed_from_video_id) == (7, "d", first.id), remix
        assert client.cancel(remix.id).status == "cancelled" and client.cancel(first.id).status == "completed"
        client.delete(remix.id)
        service.store.fail(service.claim(batch[0].id), error_of("not_finite"))
        failed = client.wait(batch[0].id)
        assert failed.error is not None and failed.error.code == "not_finite", failed.error
        usage = client.usage()
        assert (usage.jobs, usage.days) == (3, 30), usage
        assert [model.id for model in client.models()] == ["first", "plain"]
        assert client.estimate(quality="fast").qualities.keys() == {"default", "exact", "fast"}
        for kind, act in (
            (NotFound, lambda: client.get(remix.id)),
            (NotFound, lambda: client.delete(remix.id)),
            (BadRequest, lambda: client.create("e", steps=0)),
        ):
            self.fails(kind, act)
        assert len(list(client.list())) == 5, "what was refused was made"

    def places(self) -> None:
        """What has no place of its own, as a new place in the queue, leaves a reader where it was."""
        reader = EventReader("1-0")
        for lines, place in (
            ("event: queued", "1-0"),
            ("id: 2-0\nevent: in_progress", "2-0"),
            (": heartbeat", "2-0"),
            ("event: queued", "2-0"),
        ):
            list(reader.feed(f"{lines}\ndata: {{}}\n\n" if "event" in lines else f"{lines}\n\n"))
            assert reader.headers() == {"Last-Event-ID": place}, f"after {lines!r}: {reader.headers()}"

    def fails(self, kind: type[Exception], act: Callable[[], object]) -> None:
        try:
            act()
        except kind as error:
            assert getattr(error, "message", ""), error
            return
        raise AssertionError(f"no {kind.__name__}")

    def cut(self, service: Service, target: tuple[str, int], folder: Path) -> None:
        before = len(service.http.get("/videos?limit=100").json()["data"])
        proxy = FlakyProxy(target, [0, 0])
        try:
            with Client(proxy.url, retries=4) as client:
                video = client.create("once", seed=1)
                there = service.http.get("/videos?limit=100").json()["data"]
                assert len(there) == before + 1, f"a request whose answer was lost made {len(there) - before} videos"
                lease = service.claim(video.id)
                for step in (1, 2, 3):
                    service.step(lease, step)
                service.complete(lease)
                whole = [event.type for event in client.events(video.id)]
                proxy.cuts[:] = [500, 900]
                client._http.close()
            with Client(proxy.url, retries=4) as client:
                parts = [event.type for event in client.events(video.id)]
                assert parts == whole and len(whole) == 6, f"over a connection that is cut: {parts}, not {whole}"
            proxy.cuts[:] = [3000, 4000]
            with Client(proxy.url, retries=4) as client:
                assert client.download(video.id, folder / "again.mp4").read_bytes() == VIDEO, "a download that is cut"
        finally:
            proxy.close()


class Commands(Scene):
    """An operator and a user at a terminal."""

    name = "by hand: the command line"
    promise = "a command does what it says, and says what it did"

    def play(self, stage: Stage) -> None:
        own = {"webhook_http": True, "webhook_networks": "127.0.0.0/8", "webhook_retry_seconds": "0.05"}
        with desk(**own) as service, TemporaryDirectory() as name:
            self.jobs(service, Path(name))
            self.generate(service, Path(name))
            settings = service.parts.settings
            own = {"ADASPA_REDIS_URL": settings.redis_url, "ADASPA_STORAGE_URL": settings.storage_url}
            own["ADASPA_DATA_DIR"] = str(settings.data_dir)
            self.operate(service, own)
            self.events(service, own)

    def said(self, *arguments: object, status: int = 0, **options: Any) -> str:
        done = adaspa(*arguments, **options)
        assert done.returncode == status, f"adaspa {arguments}: {done.returncode}: {done.stderr[-300:]}"
        return done.stdout

    def jobs(self, service: Service, folder: Path) -> None:
        server = {"server": service.url}
        done, waiting, other = service.completed(seed=3), service.create()["id"], service.create(user="u")["id"]
        rows = [line.split("\t") for line in self.said("jobs", **server).splitlines()]
        assert [row[0] for row in rows] == [other, waiting, done], rows
        assert rows[2][1:3] == ["completed", "100 %"] and rows[2][4:6] == ["first", "3"], rows[2]
        only = json.loads(self.said("jobs", "--status", "queued", "--limit", 1, "--json", **server))
        assert [job["id"] for job in only] == [other]
        shown = json.loads(self.said("show", done, "--json", **server))
        assert shown == service.http.get(f"/videos/{done}").json()
        self.said("download", done, "--output", folder / "x.mp4", **server)
        assert (folder / "x.mp4").read_bytes() == VIDEO
        assert self.said("cancel", waiting, **server).strip() == f"{waiting}: cancelled"
        self.said("delete", other, status=2, **server)
        assert service.http.get(f"/videos/{other}").status_code == 200, "was deleted without being asked"
        assert self.said("delete", "--yes", other, **server).strip() == f"{other}: deleted"
        assert service.http.get(f"/videos/{other}").status_code == 404
        assert json.loads(self.said("usage", "--json", **server))["jobs"] == 3
        assert [model["id"] for model in json.loads(self.said("models", "--json", **server))] == ["first", "plain"]
        assert json.loads(self.said("estimate", "--json", "--steps", 8, **server))["steps"] == 8
        self.said("show", f"video_{'0' * 32}", "--json", status=1, **server)

    def generate(self, service: Service, folder: Path) -> None:
        """Ask for videos, and wait for them."""
        out, options = folder / "made.mp4", ("--seed", 4, "--steps", 8, "--quality", "fast")

        def work() -> None:
            until(lambda: len(service.store.unfinished("open")) == 2, "two videos are asked for")
            for job in service.store.unfinished("open"):
                service.complete(service.claim(job.id))

        worker = threading.Thread(target=work)
        worker.start()
        self.said("generate", "a cat", "-n", 2, "-o", out, *options, server=service.url)
        worker.join()
        made = sorted(path.name for path in folder.glob("made*.mp4"))
        assert len(made) == 2 and all((folder / name).read_bytes() == VIDEO for name in made), made
        videos = service.http.get("/videos?limit=2").json()["data"]
        asked = [(video["prompt"], video["seed"], video["steps"], video["quality"]) for video in videos]
        assert asked == [("a cat", 5, 8, "fast"), ("a cat", 4, 8, "fast")], asked
        detached = self.said("generate", "a dog", "--detach", server=service.url).split()
        assert detached == [service.store.unfinished("open")[0].id], detached

        def fail() -> None:
            until(lambda: len(service.store.unfinished("open")) == 2, "a video is asked for")
            service.store.fail(service.claim(service.store.unfinished("open")[1].id), error_of("not_finite"))

        worker = threading.Thread(target=fail)
        worker.start()
        failed = adaspa("generate", "a bird", "-o", folder / "none.mp4", server=service.url)
        worker.join()
        assert failed.returncode == 4 and "as it was told" in failed.stderr, failed
        assert not (folder / "none.mp4").exists()
        self.said("generate", "a", "--steps", 0, "-o", out, server=service.url, status=1)

    def operate(self, service: Service, own: dict[str, str]) -> None:
        store = JobStore(service.store.client)
        limits = ("--max-in-flight", 2, "--requests-per-minute", 60, "--expires-in", "2h", "--scope", "read")
        made = json.loads(self.said("keys", "create", "--name", "studio", *limits, "--json", **own))
        keys = KeyStore(service.store.client)
        (key,) = json.loads(self.said("keys", "list", "--json", **own))
        wanted = {"id": made["id"], "name": "studio", "scopes": ["read"], "max_in_flight": 2, "requests_per_minute": 60}
        assert {name: key[name] for name in wanted} == wanted and key["expires_at"] - key["created_at"] == 7200, key
        assert keys.authenticate(made["key"])
        fresh = json.loads(self.said("keys", "rotate", made["id"], "--grace", "0s", "--json", **own))
        assert keys.authenticate(fresh["key"]) and not keys.authenticate(made["key"])
        job = admit(store, service.parts.store.readable([self.some(service)])[0].params, owner=made["id"])[0]
        assert "cancelled 1 jobs" in self.said("keys", "revoke", made["id"], "--cancel-jobs", **own)
        assert not keys.authenticate(fresh["key"]) and store.get(job.id).status == "cancelled"  # type: ignore[union-attr]
        self.said("keys", "revoke", made["id"], status=1, **own)
        rows = {row["id"]: row for row in json.loads(self.said("keys", "usage", "--json", **own))}
        assert rows[made["id"]]["cancelled"] == 1 and rows["open"]["completed"] == 3, rows
        secret = self.said("webhooks", "secret", **own).split()
        first = self.said("webhooks", "rotate", "--keep", "1h", **own).strip()
        assert self.said("webhooks", "secret", **own).split() == [first, *secret]
        assert json.loads(self.said("webhooks", "list", "--json", **own)) == []
        gone = f"video_{'7' * 32}"
        service.parts.storage.create(f"videos/{gone}/1-x/video.mp4", b"xyz")
        time.sleep(0.05)
        assert json.loads(self.said("storage", "orphans", "--json", **own)) == [], "written just now"
        (orphan,) = json.loads(self.said("storage", "orphans", "--older-than", "0s", "--json", **own))
        assert (orphan["files"], orphan["bytes"]) == (1, 3), orphan
        self.said("storage", "orphans", "--older-than", "0s", "--remove", "--yes", **own)
        assert service.parts.storage.keys(f"videos/{gone}/") == []
        assert len(service.parts.storage.keys("videos/")) == 9, "files of a known job were removed"

    def events(self, service: Service, own: dict[str, str]) -> None:
        """Events that their receiver did not take."""
        with receiving() as receiver:
            receiver.answers = [500, 404]
            video_id = service.create(webhook_url=f"{receiver.url}/secret-path")["id"]
            service.http.post(f"/videos/{video_id}/cancel")
            until(lambda: service.parts.deliveries.ids("dead"), "an event is given up")
            (told,) = json.loads(self.said("webhooks", "list", "--json", **own))
            wanted = {"video_id": video_id, "state": "dead", "type": "video.cancelled", "attempts": 2}
            assert {name: told[name] for name in wanted} == wanted and told["error"] == "HTTP 404", told
            assert told["receiver"] in receiver.url and "secret-path" not in json.dumps(told), told
            assert json.loads(self.said("webhooks", "list", "--state", "waiting", "--json", **own)) == []
            shown = json.loads(self.said("webhooks", "show", video_id, **own))
            assert shown["body"] == receiver.calls[0].event and shown["url"] == f"{receiver.url}/secret-path", shown
            assert shown["webhook_id"] == receiver.ids()[0], shown["webhook_id"]
            assert self.said("webhooks", "redeliver", video_id, **own).strip() == "sending 1 event"
            until(lambda: service.parts.deliveries.get(video_id) is None, "it is sent again, and taken")
            assert len(receiver.calls) == 3 and len({*receiver.ids()}) == 1
            assert self.said("webhooks", "redeliver", "--all-dead", **own).strip() == "sending 0 events"
            for command in ("show", "redeliver"):
                self.said("webhooks", command, video_id, status=1, **own)
        marked = service.create(metadata={"order": "17"})["id"]
        rows = json.loads(self.said("jobs", "--metadata", "order=17", "--json", server=service.url))
        assert [row["id"] for row in rows] == [marked], "jobs by their metadata"
        oldest = json.loads(self.said("jobs", "--oldest-first", "--limit", 2, "--json", server=service.url))
        newest = json.loads(self.said("jobs", "--json", server=service.url))
        assert oldest == newest[:-3:-1], "the oldest first"
        after = self.said("jobs", "--after", newest[1]["id"], server=service.url).splitlines()
        assert [row.split("\t")[0] for row in after] == [row["id"] for row in newest[2:]], "behind a job"

    def some(self, service: Service) -> str:
        return str(service.http.get("/videos?limit=1").json()["data"][0]["id"])


SCENES: list[Scene] = [Documented(), Programs(), Commands()]
