"""Scenes of a client that is strict: files, links, events, images."""

import hashlib
import time
from base64 import b64encode
from io import BytesIO
from urllib.parse import parse_qs, urlsplit

import httpx
from drawn import picture
from PIL import Image
from waiting import until

from chaos.guests import Guest
from chaos.scenes import Scene
from chaos.stage import Stage

VARIANTS = ("video", "thumbnail", "spritesheet")


class Files(Scene):
    """Files are read whole, in parts, under conditions, and by links."""

    name = "files read in every way"
    promise = "a file is the same bytes by every route, and each part is that part of it"

    def play(self, stage: Stage) -> None:
        guest, other = Guest(stage), Guest(stage)
        video, order = guest.held("step-2")
        for route in ("content", "link"):
            guest.refused(409, "video_not_ready", "GET", f"/videos/{video['id']}/{route}")
        other.knows_nothing_of(video["id"])
        order.go_on()
        guest.end(video["id"])
        for variant in VARIANTS:
            path = f"/videos/{video['id']}/content?variant={variant}"
            self.parts(guest, path, whole := guest.ask("GET", path).content)
            self.conditions(guest, path, whole)
            self.links(guest, video["id"], variant, whole)
            if variant != "video":
                Image.open(BytesIO(whole)).load()
        guest.refused(404, "variant", "GET", f"/videos/{video['id']}/content?variant=first_frame")
        other.knows_nothing_of(video["id"])
        link = guest.json("GET", f"/videos/{video['id']}/link")["url"]
        guest.delete(video["id"])
        assert httpx.get(link, timeout=60).status_code == 404, "a link of a deleted video"
        guest.leave()

    def parts(self, guest: Guest, path: str, whole: bytes) -> None:
        size = len(whole)
        for asked, first, end in (
            *(("0-0", 0, 1), ("0-99", 0, 100), ("1-1", 1, 2), ("7-150", 7, 151), ("0-", 0, size), ("150-", 150, size)),
            *((f"{size - 1}-", size - 1, size), ("-1", size - 1, size), ("-100", size - 100, size)),
            *((f"-{size * 2}", 0, size), (f"5-{size * 9}", 5, size), (f"0-{size - 1}", 0, size)),
        ):
            answer = guest.ask("GET", path, 206, headers={"Range": f"bytes={asked}"})
            told = answer.headers["Content-Range"], answer.headers["Content-Length"]
            assert answer.content == whole[first:end], f"bytes {asked} of {size}: {len(answer.content)} others"
            assert told == (f"bytes {first}-{end - 1}/{size}", str(end - first)), f"bytes {asked} of {size}: {told}"
        for asked in (f"{size}-", f"{size + 5}-{size + 9}", "-0"):
            answer = guest.ask("GET", path, 416, headers={"Range": f"bytes={asked}"})
            assert answer.headers["Content-Range"] == f"bytes */{size}"
        for asked in ("bytes=0-1,4-5", "lines=0-1", "bytes=9-3", "bytes=-"):
            assert guest.ask("GET", path, headers={"Range": asked}).content == whole, asked

    def conditions(self, guest: Guest, path: str, whole: bytes) -> None:
        answer = guest.ask("GET", path)
        etag, size = f'"{hashlib.sha256(whole).hexdigest()}"', str(len(whole))
        head = guest.ask("HEAD", path)
        for each in (answer, head):
            assert each.headers["ETag"] == etag, "an ETag that is not the file's SHA-256"
            assert each.headers["Content-Length"] == size, each.headers["Content-Length"]
            assert each.headers["Accept-Ranges"] == "bytes"
        kind = answer.headers["Content-Type"]
        assert head.headers["Content-Type"] == kind
        assert kind == ("video/mp4" if "=video" in path else "image/webp"), kind
        for tags in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            for method in ("GET", "HEAD"):
                assert not guest.ask(method, path, 304, headers={"If-None-Match": tags}).content
        assert guest.ask("GET", path, headers={"If-None-Match": '"other"'}).content == whole
        part = {"Range": "bytes=1-3"}
        assert guest.ask("GET", path, 206, headers=part | {"If-Range": etag}).content == whole[1:4]
        assert guest.ask("GET", path, headers=part | {"If-Range": '"other"'}).content == whole

    def links(self, guest: Guest, video_id: str, variant: str, whole: bytes) -> None:
        link = guest.json("GET", f"/videos/{video_id}/link?variant={variant}&expires_in=600")
        now = guest.stage.store.now()
        assert now + 300 < link["expires_at"] <= now + 601, f"a link of 600 s expires in {link['expires_at'] - now}"
        assert httpx.get(link["url"], timeout=60).content == whole
        part = httpx.get(link["url"], headers={"Range": "bytes=2-4"}, timeout=60)
        assert (part.status_code, part.content) == (206, whole[2:5])
        asked = parse_qs(urlsplit(link["url"]).query)
        others = [each for each in VARIANTS if each != variant]
        forged = link["url"][:-1] + ("0" if link["url"][-1] != "0" else "1")
        longer = str(int(asked["expires"][0]) + 1)
        for changed in (
            link["url"].replace(f"variant={variant}", f"variant={others[0]}"),
            link["url"].replace(asked["expires"][0], longer),
            forged,
        ):
            assert httpx.get(changed, timeout=60).status_code == 403, f"a link that was changed: {changed}"
        stored = guest.json("GET", f"/videos/{video_id}/link?variant={variant}&via=storage")["url"]
        assert httpx.get(stored, timeout=60).content == whole, "storage's link gives other bytes"


class LinksEnd(Scene):
    """Links whose time or key is over."""

    name = "links that end"
    promise = "a link ends with its time, its key and its video"

    def play(self, stage: Stage) -> None:
        guest, revoked = Guest(stage), Guest(stage)
        video, last = guest.create(), revoked.create()
        guest.end(video["id"])
        revoked.end(last["id"])
        link = revoked.json("GET", f"/videos/{last['id']}/link")["url"]
        assert httpx.get(link, timeout=60).status_code == 200
        revoked.delete(last["id"])
        last = revoked.create()
        revoked.end(last["id"])
        link = revoked.json("GET", f"/videos/{last['id']}/link")["url"]
        revoked.keys.revoke(revoked.key.id)
        assert httpx.get(link, timeout=60).status_code == 403, "a link whose key was revoked"
        revoked.ask("GET", f"/videos/{last['id']}", 401)
        stage.store.discard(last["id"])
        short = guest.json("GET", f"/videos/{video['id']}/link?expires_in=1")
        until(lambda: stage.store.now() > short["expires_at"] + 0.1, "its second is over")
        assert httpx.get(short["url"], timeout=60).status_code == 403, "a link whose time is over"
        guest.leave()


class Events(Scene):
    """A job is followed, with breaks, by several at once."""

    name = "events followed with breaks"
    promise = "events tell every step once, in order, to whoever comes back with the last id"

    def play(self, stage: Stage) -> None:
        guest = Guest(stage)
        video, order = guest.held("step-6", steps=12)
        parts = guest.follow(video["id"], most=3)
        parts += guest.follow(video["id"], last_id=parts[-1][0], most=4)
        order.go_on()
        parts += guest.follow(video["id"], last_id=parts[-1][0])
        ended = guest.end(video["id"])
        whole = guest.follow(video["id"])
        assert parts == whole, f"{video['id']}: its events in parts are others than at once"
        ids = [tuple(map(int, event_id.split("-"))) for event_id, _, _ in whole]
        assert ids == sorted(set(ids)), f"{video['id']}: ids of events out of order"
        kinds = [kind for _, kind, _ in whole if kind != "progress"]
        assert kinds == ["queued", "in_progress", "completed"], f"{video['id']}: {kinds}"
        steps = [data["step"] for _, kind, data in whole if kind == "progress" and data["phase"] == "denoising"]
        assert sorted(set(steps)) == steps and {*range(1, 13)} <= {*steps}, f"{video['id']}: steps {steps}"
        phases = list(dict.fromkeys(data["phase"] for _, _, data in whole))
        order_of = ["queued", "loading", "encoding_prompt", "denoising", "decoding", "uploading", "completed"]
        assert phases == [phase for phase in order_of if phase in phases] and len(phases) >= 6, phases
        assert whole[-1][2] == ended, f"{video['id']}: its last event is not the video as it ended"
        guest.ask("GET", f"/videos/{video['id']}/events", 204, headers={"Last-Event-ID": whole[-1][0]})
        guest.refused(400, "Last-Event-ID", "GET", f"/videos/{video['id']}/events", headers={"Last-Event-ID": "x"})
        guest.leave()


class Deleted(Scene):
    """Jobs are deleted and cancelled while somebody follows them."""

    name = "deleted and cancelled while followed"
    promise = "whoever follows a job is told how it ended, also when it is deleted"

    def play(self, stage: Stage) -> None:
        guest = Guest(stage)
        for method, route in (("DELETE", ""), ("POST", "/cancel")):
            waiting = guest.create(model="idle-events")
            with guest.stream(waiting["id"]) as events:
                assert next(events)[1] == "queued"
                place = next(each for each in events if not each[0])
                assert place[2]["queue_position"] == 1, place
                guest.ask(method, f"/videos/{waiting['id']}{route}")
                ends = [kind for event_id, kind, _ in events if event_id]
            assert ends == ["cancelled"], f"{waiting['id']}: {method} while it is followed: {ends}"
            running, order = guest.held("step-2", steps=8)
            with guest.stream(running["id"]) as events:
                assert next(events)[1] == "queued"
                answer = guest.json(method, f"/videos/{running['id']}{route}")
                assert answer.get("status", "in_progress") == "in_progress", answer
                order.go_on()
                seen = [(kind, data) for event_id, kind, data in events if event_id]
            assert seen[-1][0] == "cancelled", f"{running['id']}: {method} while it is followed: {seen[-1][0]}"
            assert max(data["step"] for _, data in seen) < 8, f"{running['id']}: ran to its end"
        guest.leave()


class DeletedUnheard(Scene):
    """A waiting job is deleted and removed while the gateway at which somebody follows it hears nothing of Redis."""

    name = "deleted while a gateway hears nothing"
    promise = "whoever follows a job is told how it ended, also when it is deleted"

    def play(self, stage: Stage) -> None:
        near, far = Guest(stage), stage.fleet.gateways[1]
        near.at(stage.fleet.gateways[0])
        video = near.create(model="idle-events")
        with near.stream(video["id"]) as events:
            assert next(events)[1] == "queued"
            near.at(far)
            with stage.fleet.cut([stage.fleet.gateways[0]], "redis", "back"):
                near.ask("DELETE", f"/videos/{video['id']}")
                until(lambda: stage.store.get(video["id"]) is None, f"{video['id']}: its record is removed")
            ends = [kind for event_id, kind, _ in events if event_id]
        assert ends == ["cancelled"], f"{video['id']}: whoever followed it was told {ends}"
        near.leave()


class Images(Scene):
    """Several jobs share their image; some are deleted."""

    name = "jobs that share images"
    promise = "images are there as long as one job is made of them, and no longer"

    def play(self, stage: Stage) -> None:
        guest, other = Guest(stage), Guest(stage)
        image = f"data:image/png;base64,{b64encode(picture(64, 64)).decode()}"
        asked = {"model": "idle-images", "input_reference": image, "seed": 41}
        first = guest.create(key="image", **asked)
        assert guest.create(key="image", **asked)["id"] == first["id"]
        two = [video["id"] for video in guest.create(n=2, **asked)["data"]]
        remix = guest.create(path=f"/videos/{first['id']}/remix")
        assert (remix["remixed_from_video_id"], remix["seed"], remix["task"]) == (first["id"], 41, "image_to_video")
        again = guest.create(path=f"/videos/{remix['id']}/remix", prompt="a blue square")
        for gone, left in ((first["id"], remix["id"]), (remix["id"], again["id"]), (two[0], two[1])):
            guest.delete(gone)
            self.has_its_image(guest, left)
        other.ask("GET", f"/videos/{again['id']}/content?variant=first_frame", 404)
        full = Guest(stage, max_in_flight=1)
        full.create(**asked)
        body = {"prompt": "a red circle"} | asked
        full.refused(429, "too_many_in_flight", "POST", "/videos", json=body)  # what it brought has to go
        full.leave()
        made = guest.create(input_reference=image)
        made_again = guest.create(path=f"/videos/{made['id']}/remix")
        guest.end(made["id"])
        guest.delete(made["id"])
        video = guest.end(made_again["id"])
        self.has_its_image(guest, video["id"])
        guest.leave()

    def has_its_image(self, guest: Guest, video_id: str) -> None:
        (given,) = guest.get(video_id)["inputs"]
        content = guest.ask("GET", f"/videos/{video_id}/content?variant=first_frame").content
        assert hashlib.sha256(content).hexdigest() == given["sha256"], f"{video_id}: its image is another"


class Waits(Scene):
    """A request that holds its answer."""

    name = "answers held until the end"
    promise = "an answer that is held comes when the jobs have ended"

    def play(self, stage: Stage) -> None:
        guest = Guest(stage)
        for body in ({}, {"n": 2}):
            began = time.monotonic()
            answer = guest.create(headers={"Prefer": "wait=50"}, **body)
            took = time.monotonic() - began
            for video in answer["data"] if body else [answer]:
                assert took > 49 or video["status"] == "completed", (
                    f"{video['id']}: {video['status']} after {took:.1f} s ({video['error']})"
                )
        late = guest.create(headers={"Prefer": "wait=1"}, model="idle-waits")
        assert late["status"] == "queued", late["status"]
        guest.leave()


ALONE: list[Scene] = [DeletedUnheard()]
SCENES: list[Scene] = [Events(), Files(), Deleted(), Images(), LinksEnd(), Waits()]
