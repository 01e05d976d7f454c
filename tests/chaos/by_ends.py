"""Scenes of jobs that end by time, and of all that is told on the way there: what goes with a job, and what stays."""

import json
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import httpx
from adaspa_jobs.job import Progress
from adaspa_service.access.keys import KeyStore, Scope
from drawn import picture
from receiver import receiving
from running_gateway import Service, data_uri
from waiting import PATIENCE, until

from chaos.desk import desk, error_of, refused, until_swept
from chaos.scenes import Scene
from chaos.stage import Stage

KEPT = 5400
HEARTBEAT = "heartbeat"
ROUTES = (
    *(("GET", ""), ("DELETE", ""), ("GET", "/events"), ("POST", "/cancel"), ("GET", "/content"), ("GET", "/link")),
    ("GET", "/preview"),
)


class Outlived(Scene):
    """A job with an image, a remix, a link and a key is over, its time too."""

    name = "by hand: a job whose time is over"
    promise = "what has expired is gone by every route, and what others still need of it stays"

    def play(self, stage: Stage) -> None:
        with desk(result_ttl_seconds=KEPT) as service:
            once = {"Idempotency-Key": "once"}
            asked = {"prompt": "a", "model": "first", "input_reference": data_uri(picture(64, 64)), "seed": 3}
            first = service.http.post("/videos", json=asked, headers=once).json()["id"]
            service.complete(service.claim(first))
            for video_id, end in (
                (service.create()["id"], lambda lease: service.store.fail(lease, error_of("generation_failed"))),
                (service.create()["id"], service.complete),
            ):
                end(service.claim(video_id))
            waits = service.create(model="plain")["id"]
            ended = [video for video in service.http.get("/videos").json()["data"] if video["id"] != waits]
            for video in ended:
                kept = video["expires_at"] - video["completed_at"]
                assert kept == KEPT, f"a {video['status']} job is kept for {kept} s, not {KEPT}"
                due = service.store.client.zscore("adaspa:expiry", video["id"])
                assert due is not None and abs(due / 1000 - video["expires_at"]) <= 1, f"{video['id']}: is due at {due}"
            assert service.store.client.zscore("adaspa:expiry", waits) is None, "a job that waits expires"
            remix = service.http.post(f"/videos/{first}/remix", json={"prompt": "b"}).json()["id"]
            link = service.http.get(f"/videos/{first}/link").json()["url"]
            assert httpx.get(link, timeout=PATIENCE).status_code == 200
            service.store.client.zadd("adaspa:expiry", {first: 0})
            until_swept(service, lambda: service.http.get(f"/videos/{first}").status_code == 404, "it expires")
            self.gone(service, first, link)
            until_swept(service, lambda: service.parts.storage.keys(f"videos/{first}/") == [], "its files go")
            until_swept(service, lambda: service.store.get(first) is None, "its record goes")
            self.gone(service, first, link)
            left = [video["id"] for video in service.http.get("/videos?limit=100&order=asc").json()["data"]]
            assert left == [*(video["id"] for video in reversed(ended[:-1])), waits, remix], f"of a list stay {left}"
            assert service.http.get(f"/videos/{remix}/content?variant=first_frame").status_code == 200, (
                "the image of a remix went with the video that it was sent for"
            )
            again = service.http.post("/videos", json=asked | {"seed": 4}, headers=once)
            assert again.status_code == 200 and "idempotent-replayed" not in again.headers, "its key is still taken"
            usage = service.http.get("/usage").json()
            assert sum(row["completed"] for row in usage["data"]) == 2, f"what it came to went with it: {usage}"
            service.complete(service.claim(remix))
            assert service.http.get(f"/videos/{remix}").json()["remixed_from_video_id"] == first

    def gone(self, service: Service, video_id: str, link: str) -> None:
        for method, route in ROUTES:
            refused(service, 404, "video_not_found", method, f"/videos/{video_id}{route}")
        refused(service, 404, "video_not_found", "POST", f"/videos/{video_id}/remix", json={"prompt": "b"})
        assert httpx.get(link, timeout=PATIENCE).status_code == 404, "a link outlives its video"


class TimedOut(Scene):
    """A key's only job waits too long, in a queue with others."""

    name = "by hand: jobs that waited too long"
    promise = "a job that nobody takes in time fails, says so everywhere, and makes room for its owner's next"

    def play(self, stage: Stage) -> None:
        with (
            receiving() as receiver,
            desk(open_access=False, webhook_http=True, webhook_networks="127.0.0.0/8") as service,
        ):
            scopes = frozenset({Scope.read, Scope.write})
            key, token = KeyStore(service.store.client).create("one", scopes, max_in_flight=1)
            service.http.headers["Authorization"] = f"Bearer {token}"
            for priority, suffix in (("interactive", ""), ("bulk", ":bulk")):
                self.waits(service, receiver, priority, suffix)
            usage = service.http.get("/usage").json()
            assert [(row["failed"], row["completed"], row["gpu_seconds"]) for row in usage["data"]] == [(2, 0, 0)], (
                usage
            )
            load = service.store.load("plain")
            assert (load.waiting, load.unfinished) == (0, 0), load
            assert service.http.post("/videos", json={"prompt": "a"}).status_code == 200, "its owner has no room"
            assert key.max_in_flight == 1

    def waits(self, service: Service, receiver: Any, priority: str, suffix: str) -> None:
        asked = {
            "prompt": "a",
            "model": "plain",
            "priority": priority,
            "webhook_url": f"{receiver.url}/{priority}",
        }
        once = {"Idempotency-Key": priority}
        video = service.http.post("/videos", json=asked, headers=once).json()
        refused(service, 429, "too_many_in_flight", "POST", "/videos", json=asked)
        service.store.client.zadd(f"adaspa:arrivals:plain{suffix}", {video["id"]: 0})
        until_swept(
            service, lambda: service.http.get(f"/videos/{video['id']}").json()["status"] == "failed", "it fails"
        )
        failed = service.http.get(f"/videos/{video['id']}").json()
        assert (failed["error"]["code"], failed["attempt"], failed["started_at"]) == ("queue_timeout", 0, None), failed
        assert failed["expires_at"] and failed["queue_position"] is None, failed
        assert service.http.post(f"/videos/{video['id']}/cancel").json()["status"] == "failed"
        replayed = service.http.post("/videos", json=asked, headers=once)
        assert replayed.json()["id"] == video["id"], "the key of a failed job makes another"
        with service.http.stream("GET", f"/videos/{video['id']}/events") as answer:
            told = [line.removeprefix("event: ") for line in answer.iter_lines() if line.startswith("event: ")]
        assert told == ["queued", "failed"], f"its events are {told}"
        until(lambda: len(receiver.calls) == 1, "its receiver is told")
        event = receiver.calls.pop().event
        assert (event["type"], event["data"]["error"]["code"]) == ("video.failed", "queue_timeout"), event
        refused(service, 409, "video_not_ready", "GET", f"/videos/{video['id']}/content")


class Told(Scene):
    """A job is followed through a lost worker, one that gives it back, previews and a cancel."""

    name = "by hand: all that a stream tells"
    promise = "a stream tells each attempt, place, step and preview as it comes, and that it is still there"

    def play(self, stage: Stage) -> None:
        with patch("adaspa_service.gateway.events.HEARTBEAT_SECONDS", 1.5), desk() as service:
            video_id, store = service.create(model="plain")["id"], service.store
            with service.http.stream("GET", f"/videos/{video_id}/events") as answer:
                lines = self.lines(answer)

                def comes(*wanted: Any) -> None:
                    found = next(each for each in lines if each != HEARTBEAT)
                    assert found == wanted, f"a stream tells {found}, not {wanted}"

                comes(True, "queued", "queued", 0, 0)
                comes(False, "progress", "queued", None, None)
                assert next(lines) == HEARTBEAT, "a stream of a job that waits says nothing"
                lease = service.claim(video_id)
                comes(True, "in_progress", "in_progress", 1, 0)
                service.step(lease, 1)
                comes(True, "progress", "in_progress", 1, 1)
                store.client.zadd("adaspa:leases", {video_id: 0})
                comes(True, "queued", "queued", 1, 0)
                comes(False, "progress", "queued", None, None)
                lease = service.claim(video_id)
                comes(True, "in_progress", "in_progress", 2, 0)
                told = Progress(phase="denoising", step=2, steps=4, preview_step=2, step_kind="search")
                store.report_preview(lease, told, b"RIFF2")
                comes(True, "preview", "in_progress", 2, 2)
                store.release(lease)
                comes(True, "queued", "queued", 2, 0)
                comes(False, "progress", "queued", None, None)
                lease = service.claim(video_id)
                comes(True, "in_progress", "in_progress", 3, 0)
                assert next(lines) == HEARTBEAT, "a stream of a job that runs says nothing"
                service.http.post(f"/videos/{video_id}/cancel")
                store.release_cancelled(lease)
                comes(True, "cancelled", "cancelled", 3, 0)
                assert next(lines, None) is None, "a stream goes on behind the end"

    def lines(self, answer: httpx.Response) -> Iterator[Any]:
        """Each event: whether it has an id, its name, and status, attempt and step; or a comment."""
        event = dict[str, str]()
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line.startswith(":"):
                yield value
            elif line:
                event[name] = value
            elif event:
                data = json.loads(event["data"])
                assert data["object"] == "video" and data["id"], data
                assert ("preview" in data) == (event["event"] == "preview"), data
                yield "id" in event, event["event"], data["status"], data.get("attempt"), data.get("step")
                event = {}


SCENES: list[Scene] = [Outlived(), TimedOut(), Told()]
