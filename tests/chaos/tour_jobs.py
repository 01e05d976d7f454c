"""Scenes of jobs whose worker stops, fails or loses Redis, and of what is told of their ends."""

import json
import signal
import threading
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from adaspa_api.report import JobError
from adaspa_api.words import ErrorCode
from adaspa_jobs.job import Progress
from adaspa_jobs.store import LeaseLost
from adaspa_service.webhooks.deliveries import DeliveryStore
from standardwebhooks import Webhook
from waiting import until

from chaos.fleet import Part
from chaos.guests import SEEDS, Guest
from chaos.points import Order
from chaos.scenes import Scene
from chaos.stage import Stage

EVERY = 4
"""Steps from one checkpoint to the next."""


class Resumed(Scene):
    """Workers die one after another at steps of one and two digits."""

    name = "killed at steps 14 and 18"
    promise = "an attempt goes on from the latest checkpoint of all attempts"

    def play(self, stage: Stage) -> None:
        guest, seed, steps = Guest(stage), next(SEEDS), (14, 18)
        held = [Order(stage.fleet.orders, f"step-{step - 1}", seed, "hold") for step in steps]
        for step in steps:
            Order(stage.fleet.orders, f"step-{step}", seed, "kill child")
        video = guest.create(seed=seed, steps=20)
        for step, order in zip(steps, held, strict=True):
            order.wait()
            until(
                lambda step=step: guest.get(video["id"])["step"] == step - 1, f"{video['id']}: step {step - 1} is told"
            )
            order.go_on()
        ended = guest.end(video["id"])
        told = {data["attempt"]: data["resumed_from_step"] for _, _, data in guest.follow(video["id"]) if data["step"]}
        wanted = {1: None} | {number: step // EVERY * EVERY for number, step in enumerate(steps, 2)}
        assert told == wanted, f"{video['id']}: attempts resumed from {told}, not {wanted}"
        assert ended["attempt"] == len(steps) + 1
        guest.leave()


class Released(Scene):
    """A worker is told to stop in the middle of a job, while another of the same owner waits."""

    name = "worker told to stop: step-6"
    promise = "a worker that stops gives its job back, at its place and where it was"

    def play(self, stage: Stage) -> None:
        guest = Guest(stage)
        video, _ = guest.held("step-6", "await stop", steps=12)
        part = worker_of(stage, video["id"])
        with stage.fleet.workers_stopped(but=part):
            later = guest.create()
            part.signal(signal.SIGTERM, "parent")
            ended = guest.end(video["id"])
            guest.end(later["id"])
        events = guest.follow(video["id"])
        assert [kind for _, kind, _ in events if kind in ("queued", "in_progress")] == ["queued", "in_progress"] * 2
        reached = max(data["step"] for _, _, data in events if data["attempt"] == 1)
        assert ended["resumed_from_step"] in (reached, reached + 1), (
            f"{video['id']}: reached step {reached}, and resumed from {ended['resumed_from_step']}"
        )
        began = [event_id for event_id, kind, _ in events if kind == "in_progress"][1]
        behind = next(event_id for event_id, kind, _ in guest.follow(later["id"]) if kind == "in_progress")
        assert began < behind, f"{video['id']}: was given back, and waited behind {later['id']}"
        record = stage.store.get(video["id"])
        assert record is not None and record.lost_attempts == 0, "a job that was given back counts as lost"
        guest.leave()


def worker_of(stage: Stage, video_id: str) -> Part:
    """The worker that has the job."""
    job = stage.store.get(video_id)
    assert job is not None
    (part,) = [part for part in stage.fleet.workers if part.identity == job.worker]
    return part


class Failed(Scene):
    """The model raises an error; the job fails, and the next one does not."""

    name = "the model fails"
    promise = "a failed job says why, by every route, and takes no other with it"

    def play(self, stage: Stage) -> None:
        guest = Guest(stage)
        video, _ = guest.held("encoding", "raise")
        error = guest.end(video["id"], "failed")["error"]
        assert error["code"] == "out_of_memory" and error["message"], error
        guest.refused(409, "video_not_ready", "GET", f"/videos/{video['id']}/content")
        assert guest.json("POST", f"/videos/{video['id']}/cancel")["status"] == "failed"
        remix = guest.create(path=f"/videos/{video['id']}/remix")
        guest.end(remix["id"])
        done = guest.create(priority="bulk")
        guest.end(done["id"])
        assert guest.json("POST", f"/videos/{done['id']}/cancel")["status"] == "completed"
        guest.leave()


class Receiver:
    """A receiver that answers each job's deliveries by a list, and keeps them all."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, dict[str, str]]]] = {}
        """By path: statuses and headers; the last one again and again."""
        self.got: dict[str, list[tuple[bytes, dict[str, str]]]] = {}
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                taken = receiver.got.setdefault(self.path, [])
                answers = receiver.answers[self.path]
                status, headers = answers[min(len(taken), len(answers) - 1)]
                taken.append((body, {name.lower(): value for name, value in self.headers.items()}))
                self.send_response(status)
                for name, value in {"Content-Length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                """Nothing on the terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, path: str, *answers: int | tuple[int, dict[str, str]]) -> str:
        self.answers[path] = [each if isinstance(each, tuple) else (each, {}) for each in answers]
        return f"http://127.0.0.1:{self._server.server_port}{path}"


class Webhooks(Scene):
    """Receivers that refuse, redirect, want no more, or are told of several ends."""

    name = "webhooks refused in every way"
    promise = "each end is told until it is taken, with one id and one body, and then never again"

    def play(self, stage: Stage) -> None:
        guest, receiver = Guest(stage), Receiver()
        deliveries = DeliveryStore(stage.fleet.client())
        secret = guest.json("GET", "/webhooks/secret")["secret"]
        tries: list[Any] = [500, 302, 404, (503, {"Retry-After": "3"}), (429, {}), 204]
        redirect = (302, {"Location": receiver.url("/elsewhere", 204)})
        urls = {
            "completed": receiver.url("/completed", *tries),
            "cancelled": receiver.url("/cancelled", redirect, 200),
            "failed": receiver.url("/failed", 400, 299),
            "gone": receiver.url("/gone", 410, 204),
            "deleted": receiver.url("/deleted", 500),
        }
        done = guest.create(webhook_url=urls["completed"])
        gone = guest.create(webhook_url=urls["gone"], model="idle-webhooks")
        cancelled = guest.create(webhook_url=urls["cancelled"], model="idle-webhooks")
        deleted = guest.create(webhook_url=urls["deleted"], model="idle-webhooks")
        failed, _ = guest.held("encoding", "raise", webhook_url=urls["failed"])
        for video in (gone, cancelled):
            guest.json("POST", f"/videos/{video['id']}/cancel")
        owed = deliveries.get(cancelled["id"]) or receiver.got.get("/cancelled")
        assert owed, f"{cancelled['id']}: was cancelled, and owes no event"
        guest.delete(deleted["id"])
        until(lambda: receiver.got.get("/gone"), "the receiver is asked that wants no more")
        until(lambda: deliveries.ids("dead"), "that delivery is given up")
        for video, status in ((done, "completed"), (failed, "failed")):
            guest.end(video["id"], status)
        expected = {"/completed": len(tries), "/cancelled": 2, "/failed": 2, "/gone": 1}
        videos = {"/completed": done, "/cancelled": cancelled, "/failed": failed, "/gone": gone}
        for path, times in expected.items():

            def come(path: str = path, times: int = times) -> bool:
                left = deliveries.get(videos[path]["id"])
                got = len(receiver.got.get(path, []))
                given_up = {job_id for job_id, _ in deliveries.ids("dead")} - {gone["id"]}
                assert not given_up, f"{given_up}: their deliveries are given up"
                assert left or got >= times, f"{path}: counts as delivered after {got} of {times} attempts"
                return got >= times

            until(come, f"{times} deliveries to {path}")
        rotated = deliveries.rotate_secret(3600)
        assert len(rotated) == 2
        assert deliveries.redeliver(gone["id"])
        until(lambda: len(receiver.got["/gone"]) >= 2, "a delivery that was given up is made again")
        new = guest.json("GET", "/webhooks/secret")
        assert new["replaced"] == [secret] and new["secret"] != secret, "a rotated secret"
        until(
            lambda: not {each["id"] for each in videos.values()} & {job for job, _ in deliveries.ids("waiting")},
            "taken",
        )
        for path, video in videos.items():
            self.agree(guest, receiver.got[path], video["id"], [secret])
        sent = [int(headers["webhook-timestamp"]) for _, headers in receiver.got["/completed"]]
        assert sent[4] - sent[3] >= 2, f"a receiver that asks for 3 s is asked again after {sent[4] - sent[3]}"
        foreign = Guest(stage).json("GET", "/webhooks/secret")["secret"]
        assert foreign not in (secret, new["secret"]) and not verifies(foreign, *receiver.got["/failed"][0])
        self.agree(guest, receiver.got["/gone"][1:], gone["id"], [secret, new["secret"]])
        again = guest.create(webhook_url=receiver.url("/again", 200))
        guest.end(again["id"])
        until(lambda: receiver.got.get("/again"), "a later one's comes")
        assert {path: len(got) for path, got in receiver.got.items()} == expected | {"/gone": 2, "/again": 1}, {
            path: len(got) for path, got in receiver.got.items()
        }
        guest.leave()

    def agree(self, guest: Guest, got: list[tuple[bytes, dict[str, str]]], video_id: str, secrets: list[str]) -> None:
        bodies = {body for body, _ in got}
        ids = {headers["webhook-id"] for _, headers in got}
        assert len(bodies) == 1 and len(ids) == 1, f"{video_id}: {len(bodies)} bodies and the ids {ids} of one event"
        for body, headers in got:
            for secret in secrets:
                Webhook(secret).verify(body, headers)
            moved = headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}
            assert not verifies(secrets[0], body, moved), f"{video_id}: a signature that leaves the time out"
            assert not verifies(secrets[0], body, headers | {"webhook-id": "evt_x"}), f"{video_id}: one without the id"
        event = json.loads(bodies.pop())
        shown = guest.get(video_id)
        if shown["attention"]:
            shown["attention"]["layers"] = []
        assert event["data"] == shown, f"{video_id}: its event has another video than it is"
        assert event["type"] == f"video.{shown['status']}" and event["id"] in ids, event["type"]
        assert event["created_at"] == shown["completed_at"]


def verifies(secret: str, body: bytes, headers: dict[str, str]) -> bool:
    """Whether a receiver would take it."""
    try:
        Webhook(secret).verify(body, headers)
    except Exception:  # of several kinds
        return False
    return True


class RedisAwayAt(Scene):
    """A worker loses Redis, at once and for seconds, as its job is completing."""

    name = "worker without Redis for 2 s: completing"
    promise = "a video that is done is not made again because Redis is away for a moment"

    def play(self, stage: Stage) -> None:
        guest = Guest(stage)
        video, order = guest.held("completing")
        part = worker_of(stage, video["id"])
        link = part.links["redis"]
        with stage.fleet.workers_stopped(but=part):  # whatever the time: no other can take the job
            with stage.fleet.gateways_stopped():  # and its lease does not end, as it does on a busy machine
                upstream, link.upstream = link.upstream, f"{link.upstream}.away"
                link.drop()
                order.go_on()
                stage.pause(2.0)
                link.upstream = upstream
                self._leave_time(stage, video["id"])
            ended = guest.end(video["id"])
        assert ended["attempt"] == 1, f"{video['id']}: was made again"
        guest.leave()

    def _leave_time(self, stage: Stage, job_id: str) -> None:
        """Wait until the job has ended, but no longer than a worker needs that tries it at all."""
        with stage.fleet.client() as client:
            for _ in range(100):
                if client.hget(f"adaspa:job:{job_id}", "status") != b"in_progress":
                    return
                stage.pause(0.1)


class StorageAwayAt(Scene):
    """Storage is away, at once and for seconds, as a job's files come."""

    name = "storage away for 2 s: uploading"
    promise = "a video that is done is not made again because storage is away for a moment"

    def play(self, stage: Stage) -> None:
        guest = Guest(stage)
        video, order = guest.held("uploading")
        stage.fleet.storage.stop()
        order.go_on()
        stage.pause(2.0)
        stage.fleet.start_storage()
        assert guest.end(video["id"])["attempt"] == 1, f"{video['id']}: was made again"
        guest.ask("GET", f"/videos/{video['id']}/content")
        guest.leave()


class GatewaysWithoutRedis(Scene):
    """Gateways lose Redis, and say so."""

    name = "gateways without Redis for a moment"
    promise = "who asks meanwhile is told to come again, and what was answered so is done once"

    def play(self, stage: Stage) -> None:
        guest = Guest(stage)
        video = guest.create(model="idle-outage")
        links = [part.links["redis"] for part in stage.fleet.gateways]
        for link in links:
            link.upstream = f"{link.upstream}.away"
            link.drop()
        once: dict[str, Any] = {
            "json": {"prompt": "a red circle", "model": "idle-outage"},
            "headers": {"Idempotency-Key": "o"},
        }
        for _ in stage.fleet.gateways:
            for method, path, options in (
                *(("GET", f"/videos/{video['id']}", {}), ("GET", "/videos", {}), ("POST", "/videos", once)),
                *(("POST", f"/videos/{video['id']}/cancel", {}), ("DELETE", f"/videos/{video['id']}", {})),
            ):
                guest.ask(method, path, 503, **options)
        for link in links:
            link.upstream = str(link.upstream).removesuffix(".away")
        stage.fleet.wait_until_ready()
        assert guest.get(video["id"])["status"] == "queued"
        made = guest.json("POST", "/videos", **once)["id"]
        guest.made.add(made)
        assert guest.json("POST", "/videos", **once)["id"] == made
        assert set(guest.ids()) == {video["id"], made}
        guest.leave()


class Previews(Scene):
    """A worker that the scene plays publishes previews."""

    name = "previews of a running job"
    promise = "the latest preview is shown while the job runs, and no longer"

    def play(self, stage: Stage) -> None:
        guest = Guest(stage)
        guest.create(model="idle-previews")
        for _ in range(100):  # its lease may run out on a busy machine: then once more
            try:
                self.show(stage, guest)
            except LeaseLost:
                continue
            return guest.leave()
        raise AssertionError("no lease lasts")

    def show(self, stage: Stage, guest: Guest) -> None:
        lease = None
        while lease is None:
            lease = stage.store.claim("idle-previews", "played by hand")
        path = f"/videos/{lease.job.id}"
        if lease.attempt == 1:
            guest.ask("GET", f"{path}/preview", 404)
        for step in (1, 3):
            told = Progress(phase="denoising", step=step, steps=4, preview_step=step)
            stage.store.report_preview(lease, told, b"preview %d" % step)
            shown = guest.json("GET", path)
            stage.store.renew(lease)
            assert (shown["step"], shown["preview_url"]) == (step, f"/v1{path}/preview?step={step}"), shown
            assert guest.ask("GET", f"{path}/preview").content == b"preview %d" % step
        with guest.stream(lease.job.id) as events:
            shown = next(data for _, kind, data in events if kind == "preview")
        assert b64decode(shown["preview"].partition(",")[2]) == b"preview 3", shown
        stage.store.fail(lease, JobError(code=ErrorCode.generation_failed, message="as it was told"))
        guest.ask("GET", f"{path}/preview", 404)
        assert guest.get(lease.job.id)["error"]["message"] == "as it was told"


SCENES: list[Scene] = [Webhooks(), Resumed(), Failed(), Previews()]
ALONE: list[Scene] = [Released(), RedisAwayAt(), StorageAwayAt(), GatewaysWithoutRedis()]
"""While these play, nothing else goes on."""
