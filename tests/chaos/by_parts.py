"""Scenes of the service's smaller parts, each beside what has to come of it: webhooks, addresses, storage, loads."""

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import av
import numpy as np
from adaspa_api.words import Priority
from adaspa_jobs.counts import Load, QueueLoad
from adaspa_jobs.job import OPEN_OWNER
from adaspa_jobs.settings import Settings
from adaspa_jobs.storage import ObjectMissing, ObjectStorage
from adaspa_service.errors import ApiError
from adaspa_service.inputs.turns import Turns
from adaspa_service.webhooks import signing
from adaspa_service.webhooks.addresses import permitted
from adaspa_service.webhooks.attempt import Result, judge, split
from adaspa_service.webhooks.deliverer import Deliverer
from adaspa_service.webhooks.deliveries import Outcome
from drawn import assert_corners, encoded, picture
from filmed import filmed, frames_in, number_of
from http_server import answering
from PIL import Image
from receiver import drip, receiving
from recorded import recorded, tone
from running_gateway import Service, data_uri
from standardwebhooks import Webhook
from tiny_catalog import model_spec, write_catalog
from waiting import until

from chaos.desk import AGES, HOUR, LAYERED, aged, desk, error_of, refused
from chaos.scenes import Scene
from chaos.stage import Stage

DELAYS = (5, 30, 120, 600, 1800, 3600, 7200, 14400, 21600, 36000)
"""Of the documents, in seconds."""
PRIVATE = (
    *("127.0.0.1", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1", "169.254.1.1", "0.0.0.0"),
    *("224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fd00::1", "fec0::1", "ff02::1"),
    *("::ffff:10.0.0.1", "2002:a00:1::", "64:ff9b::10.0.0.1", "64:ff9b:1::8.8.8.8", "2001:0:808:808::f5ff:fffe"),
)
PUBLIC = ("8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::")
CREDENTIALS = (
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "fd00:ec2::254",
    "100.100.100.200",
    "168.63.129.16",
)


class Judged(Scene):
    """Answers of receivers, addresses and waits."""

    name = "by hand: what is made of a receiver's answer"
    promise = "an event is delivered by 2xx alone, given up by 410, and else tried at the documents' times"

    def play(self, stage: Stage) -> None:
        for status in (200, 201, 204, 299):
            assert judge(status, []).outcome is Outcome.delivered, status
        for status in (199, 300, 302, 304, 400, 401, 404, 408, 409, 411, 429, 500, 503, 599):
            assert judge(status, [(b"Retry-After", b"x")]) == Result(Outcome.rejected, f"HTTP {status}"), status
        assert judge(410, []).outcome is Outcome.gone
        later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True).encode()
        for status, header, least, most in (
            (503, b"7", 7, 7),
            (429, b"120", 120, 120),
            (429, later, 97, 101),
            (503, b"Mon, 01 Jan 2001 00:00:00 GMT", 0, 0),
        ):
            wait = judge(status, [(b"retry-AFTER", header)]).retry_after
            assert wait is not None and least <= wait <= most, f"{status} with Retry-After {header!r}: {wait}"
        assert judge(500, [(b"Retry-After", b"7")]).retry_after is None
        self.waits()
        self.addresses()
        self.signatures()

    def waits(self) -> None:
        deliverer = Deliverer(None, Settings(_env_file=None), None)  # type: ignore[arg-type]
        for attempt in range(1, 13):
            delivery: Any = SimpleNamespace(attempts=attempt)
            for result in (
                Result(Outcome.rejected),
                Result(Outcome.timed_out),
                Result(Outcome.forbidden),
                Result(Outcome.broken),
            ):
                again = deliverer._again_in(delivery, result)
                if attempt > len(DELAYS):
                    assert again is None, f"attempt {attempt} is not the last"
                else:
                    due = DELAYS[attempt - 1]
                    assert again is not None and 0.8 * due <= again <= 1.2 * due, (
                        f"after attempt {attempt}: {again} s, not {due}"
                    )
            assert deliverer._again_in(delivery, Result(Outcome.gone)) is None
            assert deliverer._again_in(delivery, Result(Outcome.interrupted)) == 0.0
            asked = deliverer._again_in(delivery, Result(Outcome.rejected, retry_after=10.0**9))
            assert attempt > len(DELAYS) or asked == 86400, (
                f"a receiver that asks for years is asked again in {asked} s"
            )
        spread = {
            round(deliverer._again_in(SimpleNamespace(attempts=1), Result(Outcome.rejected)) or 0, 6) for _ in range(9)
        }  # type: ignore[arg-type]
        assert len(spread) > 1, "what failed together comes back together"

    def addresses(self) -> None:
        networks = Settings(_env_file=None, webhook_networks="10.0.0.0/8,169.254.0.0/16,fd00::/8").webhook_networks
        for address in PRIVATE:
            assert not permitted(address, ()), f"{address} may be called"
        for address in PUBLIC:
            assert permitted(address, ()), f"{address} may not be called"
        for address in CREDENTIALS:
            assert not permitted(address, networks), f"{address} may be called, where credentials are given out"
        for address, may in (("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("fd00::1", True), ("192.168.0.1", False)):
            assert permitted(address, networks) == may, f"{address} in networks of the operator"
        for url, host in (
            ("https://a.example/x?y=1", "a.example"),
            ("http://a.example:80/", "a.example"),
            ("https://a.example:80", "a.example:80"),
            ("http://[::1]:81/x", "[::1]:81"),
        ):
            target, named = split(url)
            assert named == host, f"{url} has the Host {named}"
            assert target.target.startswith(b"/") and b"[" not in target.host, target
        assert split("https://a.example/x?y=1")[0].target == b"/x?y=1"

    def signatures(self) -> None:
        secrets = ["whsec_" + "QUFB" * 8, "whsec_" + "QkJC" * 8]
        settings, store = Settings(_env_file=None, webhook_secrets=",".join(secrets)), None
        assert signing.secrets_of(OPEN_OWNER, settings, store) == secrets  # type: ignore[arg-type]
        own = [signing.secrets_of(owner, settings, store) for owner in ("a", "b", "a")]  # type: ignore[arg-type]
        assert own[0] == own[2] and len({*own[0], *own[1], *secrets}) == 6, "a key's secrets are its own"
        body = b'{"a": 1}'
        headers = signing.headers("evt_1", int(time.time()), body, own[0])
        for secret in own[0]:
            Webhook(secret).verify(body, headers)


class Delivered(Scene):
    """Events of real jobs come to a receiver that answers as it is told."""

    name = "by hand: events delivered"
    promise = "each end is told until it is taken, as the documents describe the request"

    def play(self, stage: Stage) -> None:
        with (
            receiving() as receiver,
            desk(webhook_http=True, webhook_networks="127.0.0.0/8", webhook_retry_seconds="0.05,0.05") as service,
        ):
            made = {
                status: service.create(webhook_url=f"{receiver.url}/{status}?t=1", user="u", metadata={"a": "b"})
                for status in ("completed", "failed", "cancelled")
            }
            leases = {status: service.claim(made[status]["id"]) for status in ("completed", "failed")}
            for video in made.values():
                aged(service, video["id"])
            service.complete(leases["completed"], report=LAYERED)
            service.store.fail(leases["failed"], error_of("not_finite"))
            service.http.post(f"/videos/{made['cancelled']['id']}/cancel")
            until(lambda: len(receiver.calls) == 3, "three events come")
            for call in receiver.calls:
                status = call.path.strip("/").partition("?")[0]
                video = service.http.get(f"/videos/{made[status]['id']}").json()
                if video["attention"]:
                    video["attention"]["layers"] = []
                event, headers = call.event, call.headers
                assert event["data"] == video, f"{status}: another video than it is"
                names = {"id", "object", "type", "timestamp", "created_at", "data"}
                assert set(event) == names and (event["object"], event["type"]) == ("event", f"video.{status}"), event
                assert call.path == f"/{status}?t=1", call.path
                assert event["id"] == headers["webhook-id"] == f"evt_{video['id'].removeprefix('video_')}_{status}"
                assert event["created_at"] == video["completed_at"], f"{status}: it ended at {video['completed_at']}"
                lasted = {name: video["completed_at"] - video[name] for name in AGES if video[name]}
                assert len(lasted) == 2 - (status == "cancelled"), f"{status}: its times are {lasted}"
                assert all(abs(lasted[name] - AGES[name]) < HOUR / 2 for name in lasted), (
                    f"{status}: it lasted {lasted}"
                )
                assert datetime.fromisoformat(event["timestamp"]).timestamp() == video["completed_at"]
                assert headers["content-type"] == "application/json" and headers["user-agent"].startswith(
                    "adaspa-serve/"
                )
                assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
                call.verify(service.parts.deliveries.secrets()[0])
            asked = {"prompt": "b", "webhook_url": f"{receiver.url}/remix"}
            remix = service.http.post(f"/videos/{made['completed']['id']}/remix", json=asked).json()["id"]
            service.http.post(f"/videos/{remix}/cancel")
            until(lambda: len(receiver.calls) == 4, "the remix's event comes")
            assert (receiver.calls[3].path, receiver.calls[3].event["data"]["id"]) == ("/remix", remix)
            until(lambda: not service.parts.deliveries.counts().waiting, "all are noted")
            self.refused(service, receiver)
            self.endless(service, receiver)

    def endless(self, service: Service, receiver: Any) -> None:
        """Answers count by their status, though their body has no end."""
        for status, outcome in ((200, "delivered"), (410, "gone")):
            receiver.calls.clear()
            begin = b"HTTP/1.1 %d X\r\nTransfer-Encoding: chunked\r\n\r\n" % status
            receiver.answers = [drip(begin, each=b"1\r\nx\r\n")]
            video_id = service.create(webhook_url=f"{receiver.url}/endless")["id"]
            before = service.parts.deliveries.counts().attempts.get(outcome, 0)
            service.http.post(f"/videos/{video_id}/cancel")
            until(lambda: (counts := service.parts.deliveries.counts()).waiting == 0 and counts.attempts, "it is told")
            counted = service.parts.deliveries.counts().attempts.get(outcome, 0) - before
            assert (len(receiver.calls), counted) == (1, 1), f"an answer {status} without an end: {receiver.ids()}"

    def refused(self, service: Service, receiver: Any) -> None:
        receiver.calls.clear()
        receiver.answers = [500, 404, 302]
        given_up = service.create(webhook_url=f"{receiver.url}/x")["id"]
        service.http.post(f"/videos/{given_up}/cancel")
        deliveries = service.parts.deliveries
        until(lambda: [each for each, _ in deliveries.ids("dead")] == [given_up], "three attempts, then it is given up")
        assert len(receiver.calls) == 3, f"{len(receiver.calls)} attempts"
        counts = deliveries.counts()
        assert (counts.attempts, counts.ended) == ({"delivered": 4, "rejected": 3}, {"delivered": 4, "dead": 1}), counts
        kept = deliveries.get(given_up)
        assert kept is not None and kept.error == "HTTP 302" and kept.attempts == 3 and kept.tried_at, kept
        first = deliveries.rotate_secret(3600)
        assert len(first) == 2 and deliveries.secrets() == first and deliveries.rotate_secret(0)[0] not in first
        assert len(deliveries.secrets()) == 2, "of three secrets one was given no grace"
        service.store.client.hincrby(f"adaspa:webhook:{given_up}", "tried_at", -3600)  # as it is after days of attempts
        assert deliveries.redeliver(given_up) and not deliveries.redeliver("video_x")
        until(lambda: len(receiver.calls) == 4, "it is sent again")
        call = receiver.calls[-1]
        assert call.body == receiver.calls[0].body and len(call.headers["webhook-signature"].split()) == 2
        at = int(call.headers["webhook-timestamp"])
        assert abs(at - time.time()) < 60, f"a later attempt is signed as one of {datetime.fromtimestamp(at, UTC)}"
        for secret in deliveries.secrets():
            call.verify(secret)
        until(lambda: deliveries.get(given_up) is None, "it is taken")
        for url, what in (
            ("http://user:p@a.example/", "webhook_url"),
            ("http://a.example/#x", "webhook_url"),
            ("x", "webhook_url"),
            ("http://10.0.0.1/", "webhook_url_not_allowed"),
            ("ftp://a.example/", "webhook_url"),
            (f"{receiver.url}/{'x' * 2048}", "webhook_url"),
            ("http://127.0.0.1:0/", "webhook_url"),
        ):
            refused(service, 400, what, "POST", "/videos", json={"prompt": "a", "webhook_url": url})
        assert "webhook_url" not in service.create(webhook_url=f"{receiver.url}/token")


class Kept(Scene):
    """A folder as storage, and what is asked of it."""

    name = "by hand: a folder as storage"
    promise = "what storage says that it has, it has, and what is to go goes alone"

    def play(self, stage: Stage) -> None:
        with TemporaryDirectory(prefix="storage-") as name:
            folder = Path(name)
            storage, file = ObjectStorage(str(folder / "objects")), folder / "file"
            content = Random(1).randbytes(700_000)
            file.write_bytes(content)
            kept = storage.put_file("videos/a/1-x/video.mp4", file, "video/mp4")
            assert (kept.key, kept.bytes, kept.content_type) == ("videos/a/1-x/video.mp4", len(content), "video/mp4"), (
                kept
            )
            file.write_bytes(b"another")
            storage.put_file("videos/a/2-x/video.mp4", file, "video/mp4")
            assert storage.read(kept.key) == content and storage.head(kept.key)[0] == len(content)
            for first, end in ((0, 1), (5, 700_000), (262_143, 262_145), (0, 700_000), (699_999, 700_000)):
                assert b"".join(storage.read_range(kept.key, first, end)) == content[first:end], (
                    f"bytes {first} to {end}"
                )
            assert storage.create("checkpoints/a/1", b"one") and not storage.create("checkpoints/a/1", b"two")
            assert storage.read("checkpoints/a/1") == b"one", "an object was written over"
            storage.create("videos/ab/1-x/video.mp4", b"x")
            assert sorted(storage.keys("videos/a/")) == ["videos/a/1-x/video.mp4", "videos/a/2-x/video.mp4"]
            (entry,) = storage.entries("videos/a/1-x/")
            assert entry.bytes == 700_000 and abs(entry.written_at - time.time()) < 600, entry
            under_way = folder / "objects/videos/a/2-x/video.mp4#1"
            under_way.write_bytes(b"x")
            old = folder / "objects/videos/ab/1-x/video.mp4#2"
            old.write_bytes(b"x")
            os.utime(old, (1, 1))
            storage.remove_unfinished("videos/", written_before=time.time() - 3600)
            assert under_way.exists() and not old.exists(), "of files under way the old one goes"
            storage.delete_prefix("videos/a/", but={"videos/a/2-x/video.mp4"})
            left = ["checkpoints/a/1", "videos/a/2-x/video.mp4", "videos/ab/1-x/video.mp4"]
            assert sorted(storage.keys("")) == left, storage.keys("")
            assert not under_way.exists(), "what was never finished below a prefix goes with it"
            storage.delete("videos/a/2-x/video.mp4")
            storage.delete("videos/a/2-x/video.mp4")
            for ask in (storage.read, storage.head, lambda key: storage.read_range(key, 0, 1)):
                try:
                    ask("videos/a/2-x/video.mp4")
                except ObjectMissing:
                    continue
                raise AssertionError("what was deleted is there")
            storage.check()
            assert storage.keys(".probe/") == [] and storage.signed_url("x", 5) is None
            asyncio.run(storage.ping())


class Loads(Scene):
    """Loads of many kinds, and when a job at a place would begin."""

    name = "by hand: when a job begins"
    promise = "the time until a job begins is that of the jobs before it, on the workers of its queue"

    def play(self, stage: Stage) -> None:
        random = Random(7)
        for _ in range(300):
            serving = {priority: random.randrange(4) for priority in Priority}
            workers = random.randrange(max(serving.values()), sum(serving.values()) + 1)
            pace, share = random.choice((None, 0.5, 3.0)), random.choice((0.2, 0.5))
            queues = {}
            for priority, count in serving.items():
                waiting = random.randrange(5)
                elapsed = [
                    (random.uniform(0, 9), random.choice((1.0, 2.5))) for _ in range(random.randrange(count + 1))
                ]
                queues[priority] = QueueLoad(waiting, 1.5 * waiting, 0.0, count, elapsed)
            load = Load(workers, pace, 0, queues, share)
            for priority, queue in queues.items():
                other = queues[next(each for each in Priority if each is not priority)]
                position = random.randrange(1, 6)
                found, wanted = load.starts_in(priority, position), None
                if pace is not None and queue.workers:
                    left = sorted(max(0.0, cost * pace - seconds) for seconds, cost in queue.elapsed)
                    free = left[0] if len(left) >= queue.workers else 0.0
                    of_it = share if priority is Priority.bulk else 1 - share
                    own = max(of_it * workers, workers - other.workers)
                    at_once = min(own, queue.workers) if other.waiting else queue.workers
                    cost = 1.5 if queue.waiting else 1.0
                    wanted = free + (position - 1) * cost * pace / at_once
                assert (found is None) == (wanted is None), f"{load}: {found}, not {wanted}"
                assert found is None or wanted is None or abs(found - wanted) < 1e-9, f"{load}: {found}, not {wanted}"
            assert load.waiting == sum(queue.waiting for queue in queues.values()) == load.unfinished


MODELS = [
    model_spec(
        "builtin:demo",
        id="going",
        tasks=["video_continuation"],
        start_frames=5,
        frames=[9, 5],
        sizes=["64x64", "128x64"],
    ),
    model_spec("builtin:demo", id="looks", tasks=["reference_to_video", "reference_audio_to_video"], audio=True),
]


class Films(Scene):
    """Videos and sounds that requests come with."""

    name = "by hand: videos and sounds of requests"
    promise = "of a video its last frames are taken at the asked rate, and of a sound as much as the video is long"

    def play(self, stage: Stage) -> None:
        with TemporaryDirectory(prefix="films-") as name:
            catalog = write_catalog(Path(name) / "catalog.json", *MODELS)
            with desk(
                catalog=catalog, video_frames=60, video_pixels=200 * 120, image_networks="127.0.0.0/8"
            ) as service:
                self.videos(service)
                self.sounds(service)
                self.by_url(service)
                self.large(service)

    def videos(self, service: Service) -> None:
        for frames, own, fps, wanted in (
            (20, 8, 8, [15, 16, 17, 18, 19]),
            (40, 24, 8, [27, 30, 33, 36, 39]),
            (30, 12, 8, [23, 24, 26, 28, 29]),
            (40, 30, 15, [31, 33, 35, 37, 39]),
        ):
            sent = data_uri(filmed(frames, own, size=(200, 104)), "video/mp4")
            video = service.create(model="going", start_video=sent, fps=fps)
            (given,) = video["inputs"]
            told = video["task"], video["size"], given["role"], given["frames"], given["width"], given["height"]
            assert told == ("video_continuation", "128x64", "start", 5, 128, 64), told
            kept = frames_in(service.http.get(given["url"]).content)
            found = [number_of(frame) for frame in kept]
            close = len(found) == 5 and all(
                abs(one - other) <= (own % fps != 0) for one, other in zip(found, wanted, strict=True)
            )
            assert close and found[-1] == frames - 1, (
                f"of {frames} frames at {own} FPS, at {fps}: {found}, not {wanted}"
            )
            assert_corners(kept[0])
        for frames, own, asked in ((4, 8, {}), (20, 4, {}), (20, 8, {"num_frames": 5}), (61, 8, {})):
            body = {"prompt": "a", "model": "going", "start_video": data_uri(filmed(frames, own), "video/mp4")} | asked
            refused(service, 400, "start_video", "POST", "/videos", json=body)
        for size, status in (((200, 120), 200), ((200, 122), 400)):
            body = {"prompt": "a", "model": "going", "start_video": data_uri(filmed(10, 8, size=size), "video/mp4")}
            found = service.http.post("/videos", json=body).status_code
            assert found == status, f"a video of {size}: {found}"
        for wrong in (filmed(10, 8)[:-400], b"no video", picture()):
            body = {"prompt": "a", "model": "going", "start_video": data_uri(wrong, "video/mp4")}
            refused(service, 400, "start_video", "POST", "/videos", json=body)
        refused(service, 400, "start_video", "POST", "/videos", json={"prompt": "a", "model": "going"})

    def sounds(self, service: Service) -> None:
        image = data_uri(picture(90, 60))
        for frames, wanted in ((9, 9 / 8), (5, 5 / 8)):
            sound = data_uri(recorded("wav", "pcm_s16le"), "audio/wav")
            video = service.create(model="looks", reference_image=image, reference_audio=sound, num_frames=frames)
            looks, sounds = video["inputs"]
            assert (looks["role"], looks["width"], looks["height"]) == ("reference", 90, 60), (
                "a reference keeps its shape"
            )
            assert (sounds["role"], sounds["frames"], sounds["content_type"]) == ("audio", None, "audio/flac"), sounds
            assert abs(sounds["seconds"] - wanted) < 0.01, f"{sounds['seconds']} s of sound for {wanted} s"
            assert (video["task"], video["size"]) == ("reference_audio_to_video", "64x64")
        self.kept(service, image)
        refused(service, 400, "reference_image", "POST", "/videos", json={"prompt": "a", "model": "looks"})
        for shape, status in (((64, 256), 200), ((63, 256), 400), ((256, 64), 200)):
            body = {"prompt": "a", "model": "looks", "reference_image": data_uri(picture(*shape))}
            found = service.http.post("/videos", json=body).status_code
            assert found == status, f"a reference of {shape}: {found}"

    def kept(self, service: Service, image: str) -> None:
        """A sound is kept as it is, to the bit depth of its file, or is refused."""
        wav = recorded("wav", "pcm_s16le")
        for sent, channels, rate, lasts in (
            (recorded("wav", "pcm_s16le", rate=8000), 1, 8000, 1.125),
            (recorded("flac", "flac", channels=2, rate=48_000), 2, 48_000, 1.125),
            (recorded("wav", "pcm_s16le", seconds=0.75), 1, 44_100, 0.75),
            (recorded("ogg", "libopus", rate=48_000), 1, 48_000, 1.125),
        ):
            sound = data_uri(sent, "audio/wav")
            video = service.create(model="looks", reference_image=image, reference_audio=sound)
            given = video["inputs"][1]
            file = service.http.get(given["url"])
            samples, own = heard(file.content)
            assert (file.headers["content-type"], own, len(samples)) == ("audio/flac", rate, channels), f"{own} Hz"
            assert abs(samples.shape[1] / rate - lasts) < 0.01 and abs(given["seconds"] - lasts) < 0.01, given
            off = np.abs(samples[:, : rate // 2] - tone(lasts, rate, channels)[:, : rate // 2]).max()
            assert off < (0.1 if sent[:4] == b"OggS" else 1e-3), f"a sound of {rate} Hz is off by {off:.4f}"
            service.http.delete(f"/videos/{video['id']}")
        for wrong in (
            recorded("wav", "pcm_s16le", rate=7000),
            recorded("wav", "pcm_s16le", channels=6),
            recorded("wav", "pcm_s16le", seconds=0.4),
            wav[: len(wav) // 3],
            picture(),
            filmed(10, 8),
            b"no sound",
        ):
            body = {"prompt": "a", "model": "looks", "reference_image": image}
            body["reference_audio"] = data_uri(wrong, "audio/wav")
            refused(service, 400, "reference_audio", "POST", "/videos", json=body)

    def large(self, service: Service) -> None:
        """An image of half a megabyte is the same in JSON, in a form, and as a text of a form."""
        image = encoded(Image.frombytes("RGB", (400, 400), Random(3).randbytes(400 * 400 * 3)))
        uri, plain = data_uri(image), {"prompt": "a", "model": "looks"}
        texts = {name: (None, value) for name, value in plain.items()}
        escaped = json.dumps(plain | {"reference_image": uri}).replace("/", "\\/")  # as some programs write it
        found = [
            service.http.post("/videos", json=plain | {"reference_image": uri}),
            service.http.post("/videos", data=plain, files={"reference_image": ("x", image)}),
            service.http.post("/videos", files=texts | {"reference_image": (None, uri)}),
            service.http.post("/videos", content=escaped, headers={"Content-Type": "application/json"}),
        ]
        kept = {answer.json()["inputs"][0]["sha256"] if answer.is_success else answer.text[:200] for answer in found}
        assert len(kept) == 1 and len(next(iter(kept))) == 64, f"one image in four forms: {kept}"
        given = service.http.get(found[0].json()["inputs"][0]["url"]).content
        assert np.array_equal(np.asarray(Image.open(BytesIO(given))), np.asarray(Image.open(BytesIO(image))))

    def by_url(self, service: Service) -> None:
        content = picture(64, 64)
        with serving_steps(content) as port:
            for path, status in (("/file", 200), ("/3", 200), ("/4", 400), ("/page", 400), ("/gone", 400)):
                body = {"prompt": "a", "model": "looks", "reference_image": f"http://127.0.0.1:{port}{path}"}
                found = service.http.post("/videos", json=body)
                assert found.status_code == status, f"an image at {path}: {found.status_code} {found.text[:200]}"


def heard(content: bytes) -> tuple[np.ndarray, int]:
    """A sound, float32 [channels, samples], and its samples a second."""
    with av.open(BytesIO(content)) as container:
        (stream,) = container.streams.audio
        as_float = av.AudioResampler(format="fltp", layout=stream.layout.name, rate=stream.rate)
        parts = [part.to_ndarray() for frame in container.decode(stream) for part in as_float.resample(frame)]
    return np.concatenate(parts, axis=1), stream.rate


@contextmanager
def serving_steps(content: bytes) -> Iterator[int]:
    """A server whose path ``/N`` leads to the file by N redirects."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            left = self.path.strip("/")
            moved = left.isdigit() and int(left) > 0
            self.send_response(302 if moved else 404 if left == "gone" else 200)
            if moved:
                self.send_header("Location", f"/{int(left) - 1}")
            self.send_header("Content-Type", "text/html" if left == "page" else "image/png")
            self.end_headers()
            self.wfile.write(b"" if moved else content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with answering(Handler) as port:
        yield port


class TurnsTaken(Scene):
    """Requests with images of several owners, more than a gateway receives at a time."""

    name = "by hand: turns of requests with images"
    promise = "an owner's images keep no other owner's out, and who waits too long is told so"

    def play(self, stage: Stage) -> None:
        with patch("adaspa_service.inputs.turns.WAIT_SECONDS", 0.05):
            asyncio.run(self.take(Turns()))

    async def take(self, turns: Turns) -> None:
        with ExitStack() as held:
            for owner, most in (("a", 8), ("b", 8), ("c", 8), ("d", 8)):
                for _ in range(most):
                    await held.enter_context(turns.of(owner)).take()
                assert not await self.comes(turns, owner), f"{owner} has more than {most} turns"
            assert not await self.comes(turns, "e"), "more than 32 at a time"
        for owner in ("a", "e"):
            assert await self.comes(turns, owner), f"{owner} has no turn when all are over"

    async def comes(self, turns: Turns, owner: str) -> bool:
        with turns.of(owner) as turn:
            try:
                await turn.take()
            except ApiError as error:
                assert (error.status, error.code) == (503, "too_many_images"), error
                return False
            return True


class Checked(Scene):
    """An operator's service says whether prompts are allowed."""

    name = "by hand: prompts that are checked"
    promise = "a prompt that the operator's check does not allow is made no video of"

    def play(self, stage: Stage) -> None:
        asked: list[tuple[dict[str, Any], str]] = []

        class Check(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                asked.append((body, self.headers.get("Authorization", "")))
                words = {"allowed": True} if "good" in body["prompt"] else {"allowed": False, "reason": "is not nice"}
                content = b"oops" if "broken" in body["prompt"] else json.dumps(words).encode()
                self.send_response(500 if "down" in body["prompt"] else 200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        with answering(Check) as port:
            own = {
                "prompt_check_url": f"http://127.0.0.1:{port}/",
                "prompt_check_token": "secret",
                "prompt_check_seconds": 60,
            }
            for failure, status in (("refuse", 503), ("accept", 200)):
                with desk(prompt_check_failure=failure, **own) as service:
                    asked.clear()
                    good = service.create(prompt="good", user="u", metadata={"a": "b"}, negative_prompt="bad")
                    body, token = asked[0]
                    wanted = {"prompt": "good", "negative_prompt": "bad", "model": "first", "user": "u"}
                    assert (
                        body == wanted | {"metadata": {"a": "b"}, "owner": OPEN_OWNER} and token == "Bearer secret"
                    ), body
                    error = refused(service, 400, "prompt_refused", "POST", "/videos", json={"prompt": "x"}).json()[
                        "error"
                    ]
                    assert error["param"] == "prompt" and "is not nice" in error["message"], error
                    refused(service, 400, "prompt_refused", "POST", f"/videos/{good['id']}/remix", json={"prompt": "y"})
                    for words in ("broken good", "down good"):
                        found = service.http.post("/videos", json={"prompt": words})
                        assert found.status_code == status, f"{words}: {found.status_code}, with {failure}"
                    counted = service.http.get("/metrics").text
                    for outcome, times in (("allowed", 1), ("refused", 2), ("no_answer", 2)):
                        line = f'adaspa_prompt_checks_total{{outcome="{outcome}"}} {times}.0'
                        assert line in counted, f"{line}: {[each for each in counted.splitlines() if 'prompt' in each]}"


SCENES: list[Scene] = [Judged(), Delivered(), Kept(), Loads(), TurnsTaken(), Films(), Checked()]
