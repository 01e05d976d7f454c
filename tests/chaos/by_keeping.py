"""Scenes of what a gateway tells later and keeps: numbers, histories, and what lies in storage."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import Labels, Progress
from adaspa_jobs.storage import ObjectStorage, StorageUnavailable
from adaspa_jobs.store import SCANNED
from adaspa_service.access.keys import KeyStore, Scope
from obstore.exceptions import PermissionDeniedError
from prometheus_client.parser import text_string_to_metric_families
from running_gateway import FILES, REPORT, Service
from waiting import until

from chaos.desk import FIRST, LAYERED, announced, desk, error_of, refused, until_swept
from chaos.scenes import Scene
from chaos.stage import Stage


class Numbers(Scene):
    """Jobs are run by hand, and every number that is told of them is computed once more."""

    name = "by hand: numbers that are told"
    promise = "estimates, places, metrics and usage are what the jobs came to"

    def play(self, stage: Stage) -> None:
        with desk() as service:
            refused(service, 404, "video_not_found", "GET", "/videos/video_" + "1" * 32)
            assert service.http.post("/videos/estimate", json={}).json()["estimated_seconds"] is None
            self.measured(service)
            self.places(service)
            self.counts(service)

    def run(self, service: Service, denoising: float, **asked: Any) -> None:
        lease = service.claim(service.create(**asked)["id"])
        timings = {"loading": 50.0, "encoding_prompt": 0.5, "denoising": denoising, "decoding": 1.0, "uploading": 0.25}
        service.store.complete(lease, {}, REPORT, timings)

    def measured(self, service: Service) -> None:
        for seconds in (8.0, 2.0, 4.0):
            self.run(service, seconds, quality="fast", steps=4)
        self.run(service, 10.0, quality="fast", steps=4, size="96x64")
        self.run(service, 3.0, steps=4)
        self.run(service, 9.0, sparsity=0.5)
        self.run(service, 7.0, guidance_scale=1.0)

        def told(**asked: Any) -> tuple[Any, ...]:
            answer = service.http.post("/videos/estimate", json=asked).json()
            measured = answer["measured"] or {}
            names = ("jobs", "size", "num_frames", "steps", "scaled")
            return answer["estimated_seconds"], answer["denoising_seconds"], *(measured.get(name) for name in names)

        for asked, wanted in (
            ({"quality": "fast"}, (5.8, 4.0, 3, "64x64", 9, 4, False)),
            ({"quality": "fast", "steps": 8}, (9.8, 8.0, 3, "64x64", 9, 4, False)),
            ({"quality": "fast", "num_frames": 5}, (3.2, 2.2, 3, "64x64", 9, 4, True)),
            ({"quality": "fast", "size": "96x64"}, (11.8, 10.0, 1, "96x64", 9, 4, False)),
            ({"quality": "fast", "size": "64x96"}, (11.8, 10.0, 1, "96x64", 9, 4, True)),
            ({}, (4.8, 3.0, 1, "64x64", 9, 4, False)),
            ({"guidance_scale": 1.0}, (8.8, 7.0, 1, "64x64", 9, 4, False)),
            ({"quality": "exact"}, (None, None, None, None, None, None, None)),
            ({"sparsity": 0.5}, (None, None, None, None, None, None, None)),
        ):
            assert told(**asked) == wanted, f"estimate of {asked}: {told(**asked)}, not {wanted}"
        whole = service.http.post("/videos/estimate", json={"quality": "fast"}).json()
        presets = {name: each["estimated_seconds"] for name, each in whole["qualities"].items()}
        assert presets == {"default": 4.8, "exact": None, "fast": 5.8}, presets
        video = service.create(quality="fast")
        assert video["estimated_seconds"] == 5.8, video["estimated_seconds"]
        service.http.delete(f"/videos/{video['id']}")
        assert service.http.get("/videos?limit=100").json()["has_more"] is False
        assert len(service.http.get("/videos").json()["data"]) == 7, "estimates made videos"

    def places(self, service: Service) -> None:
        spec = ModelSpec.model_validate(FIRST)
        service.store.client.delete("adaspa:paces:first")
        service.store.client.rpush("adaspa:paces:first", "2", "10", "4")
        for worker in ("one", "two"):
            announced(service, spec, worker)
        videos = [
            service.create(steps=4),
            service.create(steps=8),
            service.create(steps=8),
            service.create(priority="bulk"),
        ]
        mean = (1 + 2 + 2) / 3
        wanted = [(1, 0.0), (2, mean * 4 / 1.6), (3, 2 * mean * 4 / 1.6), (1, 0.0)]
        for video, (position, seconds) in zip(videos, wanted, strict=True):
            found = service.http.get(f"/videos/{video['id']}").json()
            told = found["queue_position"], found["starts_in_seconds"], found["workers"]
            assert told == (position, round(seconds, 1), 2), f"place {told}, not {(position, round(seconds, 1), 2)}"
            estimated = found["estimated_seconds"] or 0.0
            wait = int(service.http.get(f"/videos/{video['id']}").headers["openai-poll-after-ms"])
            due = round(min(max((found["starts_in_seconds"] + estimated) * 100, 500), 10_000))
            assert wait == due, f"is to be polled after {wait} ms, not {due}"
        lease = service.claim(videos[0]["id"])
        told_steps = Progress(phase="denoising", step=1, steps=4, eta_seconds=60.0, step_kind="sparse")
        service.store.report_progress(lease, told_steps)
        running = service.http.get(f"/videos/{videos[0]['id']}")
        shown = running.json()
        names = ("status", "phase", "step", "step_kind", "eta_seconds", "progress", "attempt", "queue_position")
        assert [shown[name] for name in names] == [
            "in_progress",
            "denoising",
            1,
            "sparse",
            60.0,
            2 + 93 // 4,
            1,
            None,
        ], shown
        assert int(running.headers["openai-poll-after-ms"]) == 6000, running.headers["openai-poll-after-ms"]
        service.store.fail(lease, error_of("generation_failed"))
        assert "openai-poll-after-ms" not in service.http.get(f"/videos/{videos[0]['id']}").headers
        service.http.post(f"/videos/{videos[1]['id']}/cancel")

    def counts(self, service: Service) -> None:
        keys = KeyStore(service.store.client)
        operator, _ = keys.create("operator", frozenset({Scope.admin}))
        service.store.client.hset("adaspa:leases_lost", "first", "3")
        metrics = {}
        for family in text_string_to_metric_families(service.http.get("/metrics").text):
            for sample in family.samples:
                metrics[sample.name, tuple(sorted(sample.labels.items()))] = sample.value

        def of(name: str, **labels: str) -> float:
            return metrics.get((name, tuple(sorted(labels.items()))), math.nan)

        queue = {"model": "first", "priority": "interactive", "queue": "generate.first"}
        bulk = {"model": "first", "priority": "bulk", "queue": "generate.first:bulk"}
        wanted = [
            (of("adaspa_store_up"), 1),
            (of("adaspa_jobs_waiting", **queue), 1),
            (of("adaspa_jobs_waiting", **bulk), 1),
            (of("adaspa_jobs_running", model="first"), 0),
            (of("adaspa_jobs_unfinished", model="first"), 2),
            (of("adaspa_jobs_unfinished", model="plain"), 0),
            (of("adaspa_workers", model="first"), 2),
            (of("adaspa_workers", model="plain"), 0),
            (of("adaspa_workers_wanted", model="first"), 2),
            (of("adaspa_workers_wanted", model="plain"), 0),
            (of("adaspa_jobs_ended_total", model="first", status="completed", code=""), 7),
            (of("adaspa_jobs_ended_total", model="first", status="failed", code="generation_failed"), 1),
            (of("adaspa_jobs_ended_total", model="first", status="cancelled", code=""), 2),
            (of("adaspa_leases_lost_total", model="first"), 3),
            (of("adaspa_webhooks_waiting"), 0),
            (of("adaspa_webhooks_dead"), 0),
            (of("adaspa_http_requests_total", method="POST", route="/videos/estimate", status="200"), 11),
        ]
        for number, (found, due) in enumerate(wanted):
            assert found == due, f"metric {number} of {wanted}"
        oldest = of("adaspa_queue_oldest_seconds", **queue)
        assert 0 < oldest < 600, f"the oldest job waits for {oldest} s"
        used, limit = (of("adaspa_redis_connections", kind=kind) for kind in ("used", "limit"))
        assert 0 < used < limit and of("adaspa_redis_memory_bytes", kind="used") > 1000 * used / used
        assert of("adaspa_redis_memory_bytes", kind="limit") == 0
        usage = service.http.get("/usage").json()
        (row,) = usage["data"]
        assert (row["model"], row["completed"], row["failed"], row["cancelled"], usage["jobs"]) == (
            "first",
            7,
            1,
            2,
            10,
        ), usage
        assert usage["gpu_seconds"] == row["gpu_seconds"] > 0 and usage["days"] == 30
        assert row["date"] == time.strftime("%Y-%m-%d", time.gmtime()), row["date"]
        today = int(service.store.now()) // 86_400
        for ago in (1, 6, 7, 29, 30):
            service.store.client.hset(f"adaspa:usage:{today - ago}", "open|plain|completed", str(100 + ago))
        service.store.client.hset(f"adaspa:usage:{today - 1}", "another|plain|completed", "5")
        for days, earlier in (
            (1, []),
            (2, [1]),
            (7, [1, 6]),
            (8, [1, 6, 7]),
            (30, [1, 6, 7, 29]),
            (31, [1, 6, 7, 29, 30]),
        ):
            usage = service.http.get(f"/usage?days={days}").json()
            assert [row["completed"] for row in usage["data"][1:]] == [100 + ago for ago in earlier], f"{days} days"
            dates = [time.strftime("%Y-%m-%d", time.gmtime((today - ago) * 86_400)) for ago in earlier]
            assert [row["date"] for row in usage["data"][1:]] == dates, f"{days} days: {usage['data']}"
            assert usage["jobs"] == 10 + sum(100 + ago for ago in earlier), f"{days} days: {usage['jobs']} jobs"
        assert operator.scopes == frozenset({Scope.admin})


class Histories(Scene):
    """A job with a long history is followed from its beginning and from the middle."""

    name = "by hand: a long history followed"
    promise = "events tell every step once, in order, to whoever comes back with the last id"

    def play(self, stage: Stage) -> None:
        with desk() as service:
            video = service.create(steps=2000, priority="bulk")
            lease = service.claim(video["id"])
            for step in range(1, 251):
                service.store.report_progress(lease, Progress(phase="denoising", step=step, steps=2000))
            with self.following(service, video["id"]) as first:
                seen = [next(first) for _ in range(252)]
                with self.following(service, video["id"]) as later:  # who comes when the gateway knows all of it
                    assert [next(later) for _ in range(252)] == seen
            preview = Progress(phase="denoising", step=250, steps=2000, preview_step=250)
            service.store.report_preview(lease, preview, b"RIFFwebp")
            shown = service.http.get(f"/videos/{video['id']}/preview")
            assert (shown.content, shown.headers["content-type"]) == (b"RIFFwebp", "image/webp")
            service.complete(lease, report=LAYERED)
            whole = self.follow(service, video["id"])
            assert len(whole) == 1 + 1 + 250 + 1, f"{len(whole)} events of a job of 253"  # the preview is over
            assert [data["step"] for _, kind, data in whole if kind == "progress"] == [*range(1, 251)]
            for at in (0, 1, 98, 99, 100, 101, 150, 198, 199, 200, 251):
                rest = self.follow(service, video["id"], whole[at][0])
                assert rest == whole[at + 1 :], (
                    f"whoever had {at + 1} events gets {len(rest)} more, not {len(whole) - at - 1}"
                )
            over = service.http.get(f"/videos/{video['id']}/events", headers={"Last-Event-ID": whole[-1][0]})
            assert over.status_code == 204, over.status_code
            ended = service.http.get(f"/videos/{video['id']}").json()
            assert whole[-1][1:] == ("completed", ended), "the last event is the video as it ended"
            (listed,) = service.http.get("/videos").json()["data"]
            assert len(ended["attention"]["layers"]) == 2, "a video tells of its layers"
            assert listed == ended | {"attention": ended["attention"] | {"layers": []}}, "in a list it does not"
            self.files(service, video["id"])
            several = [service.completed(model="plain", user=f"u{number}") for number in range(5)]
            listed = [each["id"] for each in service.http.get("/videos?limit=5").json()["data"]]
            assert listed == several[::-1], "the newest first"

    def follow(self, service: Service, video_id: str, last: str = "") -> list[tuple[str, str, dict[str, Any]]]:
        """Read the events to the end."""
        with self.following(service, video_id, last) as events:
            return list(events)

    @contextmanager
    def following(
        self, service: Service, video_id: str, last: str = ""
    ) -> Iterator[Iterator[tuple[str, str, dict[str, Any]]]]:
        """Follow a job of which there is always something more to tell."""
        headers = {"Last-Event-ID": last} if last else {}
        with service.http.stream("GET", f"/videos/{video_id}/events", headers=headers) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream"), answer.headers
            assert answer.headers["cache-control"] == "no-store"
            yield self.events(answer)

    def events(self, answer: httpx.Response) -> Iterator[tuple[str, str, dict[str, Any]]]:
        event, told = dict[str, str](), 0
        for line in answer.iter_lines():
            assert not line.startswith(":"), f"{told} events, and then for 15 s nothing more"
            name, _, value = line.partition(": ")
            event |= {name: value} if line else {}
            if not line and "data" in event:
                told += 1
                yield event["id"], event["event"], json.loads(event["data"])
                event = {}

    def files(self, service: Service, video_id: str) -> None:
        for variant, (name, kind, content) in FILES.items():
            answer = service.http.get(f"/videos/{video_id}/content?variant={variant}")
            assert (answer.content, answer.headers["content-type"]) == (content, kind), variant
            disposition = f'inline; filename="{video_id}{Path(name).suffix}"'
            assert answer.headers["content-disposition"] == disposition, answer.headers["content-disposition"]
            assert answer.headers["cache-control"] == "private, no-cache"
        link = service.http.get(f"/videos/{video_id}/link").json()["url"]
        for url, policy in ((f"/videos/{video_id}/content", "same-origin"), (link, "cross-origin")):
            found = service.http.get(url).headers["cross-origin-resource-policy"]
            assert found == policy, f"{url}: pages of other sites may show it: {found}"
        unknown = link.replace(video_id, f"video_{'0' * 32}")
        told = [(answer.status_code, answer.text) for answer in map(service.http.get, (f"{link}x", unknown))]
        assert told[0] == told[1] and told[0][0] == 403, f"links that are none tell which videos there are: {told}"
        refused(service, 404, "variant", "GET", f"/videos/{video_id}/content?variant=first_frame")
        refused(service, 400, "variant", "GET", f"/videos/{video_id}/content?variant=other")
        refused(service, 400, "via", "GET", f"/videos/{video_id}/link?via=storage")
        for seconds, good in ((1, True), (7 * 86400, True), (0, False), (7 * 86400 + 1, False)):
            status = service.http.get(f"/videos/{video_id}/link?expires_in={seconds}").status_code
            assert status == (200 if good else 400), f"a link for {seconds} s: {status}"
        job = service.store.get(video_id)
        assert job is not None
        service.parts.storage.delete(job.artifacts["thumbnail"].key)
        for method in ("GET", "HEAD"):
            assert service.http.request(method, f"/videos/{video_id}/content?variant=thumbnail").status_code == 404
        assert service.http.get(f"/videos/{video_id}/content").status_code == 200


def left(storage: ObjectStorage, key: str, content: bytes) -> None:
    """Put an object into a folder; a janitor may just be removing an empty one of that name."""

    def put() -> bool:
        try:
            return storage.create(key, content) or True
        except StorageUnavailable:
            return False

    until(put, f"{key} is stored")


class Long(Scene):
    """An owner has more jobs than a gateway looks through for one page."""

    name = "by hand: a list longer than a look"
    promise = (
        "pages of a list, of all jobs or of those with a label, neither repeat nor hide one, however many there are"
    )

    def play(self, stage: Stage) -> None:
        with desk(queue_cap=2 * SCANNED) as service:
            lease = service.claim(service.create()["id"])
            runs, made = lease.job, [lease.job.id]
            for label, jobs in (("first", 3), ("", SCANNED + 3), ("last", 3)):
                labels = Labels(metadata={"of": label} if label else {})
                made += [job.id for job in service.store.admit_all([runs.params] * jobs, labels=labels).jobs]
            for order, wanted in (("asc", made), ("desc", made[::-1])):
                assert self.walk(service, f"limit=100&order={order}") == wanted, f"pages of all, {order}"
                for label, some in (("first", made[1:4]), ("last", made[-3:]), ("none", [])):
                    for limit in (2, 3, 100):
                        found = self.walk(service, f"limit={limit}&order={order}&metadata[of]={label}")
                        due = some if order == "asc" else some[::-1]
                        assert found == due, f"{limit} jobs a page of {label!r}, {order}: {found}, not {due}"

    def walk(self, service: Service, query: str) -> list[str]:
        """The ids of each page, to the end."""
        found, after = list[str](), ""
        while True:
            page = service.http.get(f"/videos?{query}{after}").json()
            found += [video["id"] for video in page["data"]]
            if not page["has_more"]:
                return found
            assert f"&after={page['last_id']}" != after, f"{query}: a page begins where the one before it did"
            after = f"&after={page['last_id']}"


class Leftovers(Scene):
    """What killed processes left in storage, and what only looks so."""

    name = "by hand: leftovers in storage"
    promise = "what belongs to no job goes, and what belongs to one stays"

    def play(self, stage: Stage) -> None:
        from adaspa_service.gateway.janitor import Janitor  # noqa: PLC0415

        with desk() as service:
            storage, store = service.parts.storage, service.store
            running, waiting = service.create(), service.create()
            lease = service.claim(running["id"])
            done, many = service.completed(), service.completed()
            gone = f"video_{'7' * 32}"
            kept = [f"checkpoints/{video['id']}/000001-000004-x" for video in (running, waiting)]
            over = [f"checkpoints/{video_id}/000001-000004-x" for video_id in (done, gone)]
            inputs, other = "a" * 32, "b" * 32
            for key in (
                *kept,
                *over,
                f"inputs/{inputs}/first.png",
                f"inputs/{other}/first.png",
                f"videos/{gone}/1-x/video.mp4",
            ):
                left(storage, key, b"x")
            for folder in (inputs, other):
                store.await_inputs(folder)
            store.client.zadd("adaspa:awaited_inputs", {inputs: 0})
            left(storage, ".probe/left", b"x")
            for number in range(120):
                left(storage, f"videos/{many}/9-left/{number}", b"")
            leaves = Janitor(service.parts)
            leaves.sweep()
            there = set(storage.keys(""))
            assert set(kept) <= there, f"checkpoints of unfinished jobs are removed: {set(kept) - there}"
            assert not set(over) & there, f"checkpoints of no job stay: {set(over) & there}"
            assert f"inputs/{inputs}/first.png" not in there and f"inputs/{other}/first.png" in there, (
                "images of no job"
            )
            assert f"videos/{gone}/1-x/video.mp4" in there, (
                "a video of an unknown job was removed: Redis may be the wrong one"
            )
            assert ".probe/left" not in there, "a look at storage stays"
            self.orphans(service, gone, other)
            store.client.zadd("adaspa:leavings", {many: 0, done: 0})
            until_swept(
                service,
                lambda: not [key for key in storage.keys(f"videos/{many}/") if "9-left" in key],
                "an attempt's leftovers go",
            )
            for video_id in (done, many):
                assert len(storage.keys(f"videos/{video_id}/")) == 3, f"files of {video_id}"
            self.refused(service, done)
            for number in range(120):
                left(storage, f"videos/{many}/{number}", b"")
            service.http.delete(f"/videos/{many}")
            until_swept(service, lambda: storage.keys(f"videos/{many}/") == [], "all files of a deleted job go")
            service.http.delete(f"/videos/{running['id']}")
            leaves.sweep()
            assert kept[0] in storage.keys("checkpoints/"), "a checkpoint went while its job runs"
            store.release_cancelled(lease)
            until_swept(service, lambda: kept[0] not in storage.keys("checkpoints/"), "a deleted job's checkpoint goes")

    def refused(self, service: Service, done: str) -> None:
        """Storage refuses to remove anything for a while."""
        from adaspa_service.gateway.janitor import Janitor  # noqa: PLC0415

        storage, store = service.parts.storage, service.store
        deleted, images = service.completed(), "c" * 32
        gone = [f"videos/{deleted}/9-left/x", f"checkpoints/{deleted}/000001-000004-x", f"inputs/{images}/first.png"]
        gone += [f"videos/{done}/9-left/x"]
        for key in gone:
            left(storage, key, b"x")
        store.await_inputs(images)

        with patch("obstore.delete", side_effect=PermissionDeniedError("may not remove")):
            service.http.delete(f"/videos/{deleted}")
            store.client.zadd("adaspa:awaited_inputs", {images: 0})
            store.client.zadd("adaspa:leavings", {done: 0})
            Janitor(service.parts).sweep()
        for owed, job in (("purge", deleted), ("leavings", done)):  # what is owed is tried again at once
            store.client.zadd(f"adaspa:{owed}", {job: 0}, xx=True)
        Janitor(service.parts).sweep()
        until_swept(service, lambda: not {*gone} & {*storage.keys("")}, "what storage did not remove at first goes")
        assert len(storage.keys(f"videos/{done}/")) == 3, "files of a completed video"

    def orphans(self, service: Service, gone: str, other: str) -> None:
        from adaspa_service.gateway.orphans import find_orphans  # noqa: PLC0415

        storage, store = service.parts.storage, service.store
        left(storage, "videos/notes.txt", b"x")
        time.sleep(0.05)
        orphans, known = find_orphans(storage, store, 0.0)
        assert [(each.job_id, each.files, each.bytes) for each in orphans] == [(gone, 1, 1)], orphans
        assert known == 3, f"{known} known jobs and requests have files: two jobs, and images that are awaited"
        assert find_orphans(storage, store, 3600.0)[0] == [], "what was just written is no orphan"


SCENES: list[Scene] = [Numbers(), Histories(), Long(), Leftovers()]
