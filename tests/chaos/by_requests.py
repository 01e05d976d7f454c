"""Scenes of what a gateway accepts and refuses: fields at their limits, images, what a model's workers offer."""

import hashlib
import json
import math
import random
from io import BytesIO
from typing import Any

import numpy as np
from adaspa_api.fields import MAX_URL_CHARS
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.fits import Fits
from adaspa_jobs.job import Progress
from adaspa_service.access.keys import KeyStore, Scope
from drawn import MOVING, assert_corners, corners, encoded, picture
from http_server import serving_file
from PIL import Image
from running_gateway import Service, data_uri

from chaos.desk import FIRST, MOST_SEED, PLAIN, QUEUE_CAP, announced, desk, error_of, refused, until_swept
from chaos.scenes import Scene
from chaos.sightings import SETTLED
from chaos.stage import Stage


class Fields(Scene):
    """Each field at its limits and just beyond, alone and beside others."""

    name = "by hand: fields at their limits"
    promise = "what a model's limits allow is accepted as it was asked, and what is beyond is refused by its name"

    def play(self, stage: Stage) -> None:
        with desk(queue_cap=5000) as service:
            self.limits(service)
            self.clashes(service)
            self.defaults(service)
            self.lengths(service)
            self.queues(service)
            self.adapters(service)
            self.labels(service)
            self.receivers(service)
            self.remixes(service)

    def remixes(self, service: Service) -> None:
        asked = {"model": "first", "size": "96x64", "num_frames": 5, "fps": 12, "steps": 7, "guidance_scale": 2.5}
        asked |= {"negative_prompt": "dark", "seed": 77, "output_format": "gif", "priority": "bulk", "flow_shift": 2.0}
        for more in ({"quality": "fast"}, {"sparsity": 0.5, "warmup": 2}, {"retained_mass": 0.7}):
            source = service.create(**asked, **more, metadata={"a": "b"}, user="u")
            remix = service.http.post(f"/videos/{source['id']}/remix", json={"prompt": "other", "user": "v"}).json()
            own = {"prompt": "other", "remixed_from_video_id": source["id"], "metadata": {}, "user": "v"}
            for name in (*SETTLED, "sparsity", "retained_mass", "warmup", "flow_shift", "loras"):
                wanted = own.get(name, source[name])
                assert remix[name] == wanted or name == "created_at", f"{name} of a remix: {remix[name]}, not {wanted}"
        refused(service, 400, "prompt", "POST", f"/videos/{source['id']}/remix", json={"prompt": ""})
        refused(service, 400, "steps", "POST", f"/videos/{source['id']}/remix", json={"prompt": "a", "steps": 4})

    def limits(self, service: Service) -> None:
        shows = {"size": str, "num_frames": int}
        table: dict[str, tuple[list[Any], list[Any]]] = {
            "fps": ([1, 2, 29, 30], [0, 31, -1]),
            "steps": ([1, 2, 2000], [0, 2001]),
            "guidance_scale": ([1.0, 1.5, 10.0], [0.99, 10.01]),
            "seed": ([0, 1, MOST_SEED], [-1, MOST_SEED + 1]),
            "size": (["64x64", "96x64", "64x96"], ["96x96", "64x64x64", "x"]),
            "num_frames": ([5, 9, 33], [6, 0, 10]),
            "quality": (["exact", "fast"], ["balanced", "best"]),
            "sparsity": ([0.1, 0.5, 0.9], [0.09, 0.91]),
            "retained_mass": ([0.6, 0.95], [0.59, 0.96]),
            "flow_shift": ([1, 8], [0.9, 8.1]),
            "warmup": ([1, 2], [0, 3]),
            "output_format": (["webm", "mp4", "gif"], ["webp", "avi"]),
            "prompt": (["a", "x" * 200], ["", "  ", "x" * 201]),
            "negative_prompt": (["", "x" * 200], ["x" * 201]),
            "priority": (["interactive", "bulk"], ["low"]),
            "user": (["u", "u" * 256], ["", "u" * 257]),
        }
        for name, (good, bad) in table.items():
            for value in good:
                video = service.create(**{"model": "first", "steps": 4, name: value})
                assert video[name] == value, f"{name} was {value!r} and is {video[name]!r}"
                assert isinstance(video[name], shows.get(name, object)), video[name]
            for value in bad:
                body = {"prompt": "a", "model": "first", "steps": 4, name: value}
                refused(service, 400, name, "POST", "/videos", json=body)
                if name != "user":  # a note, which an estimate does not look at
                    refused(service, 400, name, "POST", "/videos/estimate", json=body)
        for name, value in (("sparsity", 0.0), ("audio", True), ("guidance_scale_2", 2.0), ("negative_prompt", "x")):
            refused(
                service,
                400,
                name,
                "POST",
                "/videos",
                json={"prompt": "a", "model": "plain" if name[0] == "n" else "first", name: value},
            )

    def clashes(self, service: Service) -> None:
        for name, asked in (
            ("quality", {"quality": "fast", "sparsity": 0.5}),
            ("quality", {"quality": "fast", "retained_mass": 0.7}),
            ("quality", {"quality": "fast", "warmup": 1}),
            ("retained_mass", {"retained_mass": 0.7, "sparsity": 0.5}),
            ("negative_prompt", {"negative_prompt": "dark", "guidance_scale": 1.0}),
            ("fit", {"fit": "cover"}),
            ("last_frame", {"last_frame": data_uri(picture())}),
            ("seconds", {"seconds": 1.125, "num_frames": 5, "fps": 8}),
            ("seed", {"seed": MOST_SEED, "n": 2}),
            ("n", {"n": 4}),
            ("model", {"model": "second"}),
        ):
            refused(service, 400, name, "POST", "/videos", json={"prompt": "a", "model": "first", "steps": 4} | asked)
        batch = service.create(model="first", n=3, seed=MOST_SEED - 2)["data"]
        assert [video["seed"] for video in batch] == [MOST_SEED - 2, MOST_SEED - 1, MOST_SEED], batch
        drawn = {service.create(model="first")["seed"] for _ in range(3)}
        assert len(drawn) == 3 and all(0 <= seed < 2**32 for seed in drawn), f"seeds are drawn: {drawn}"

    def defaults(self, service: Service) -> None:
        video = service.create()
        wanted = {"model": "first", "size": "64x64", "num_frames": 9, "fps": 8, "steps": 4, "guidance_scale": 4.0}
        wanted |= {"output_format": "webm", "quality": None, "priority": "interactive", "task": "text_to_video"}
        wanted |= {"status": "queued", "progress": 0, "phase": "queued", "step": 0, "attempt": 0, "seconds": "1.125"}
        wanted |= {"metadata": {}, "user": None, "inputs": [], "warnings": [], "timings": {}, "negative_prompt": None}
        wanted |= {"remixed_from_video_id": None, "started_at": None, "object": "video", "sparsity": None}
        found = {name: video[name] for name in wanted}
        assert found == wanted, {name: found[name] for name in wanted if found[name] != wanted[name]}
        listed = service.http.get("/models").json()
        assert [model["id"] for model in listed["data"]] == ["first", "plain"], "models in the catalog's order"
        for model in listed["data"]:
            assert service.http.get(f"/models/{model['id']}").json() == model
        shown, rules = listed["data"][0], listed["data"][0]["parameters"]["properties"]
        assert (shown["default_size"], shown["sizes"], shown["frames"], shown["max_batch"]) == (
            *("64x64", FIRST["sizes"], FIRST["frames"], 3),
        ), shown
        limits = {"fps": [1, 30, 8], "steps": [1, 2000, 4], "guidance_scale": [1, 10, 4], "n": [1, 3, 1]}
        for name, wanted_rule in limits.items():
            rule = rules[name]
            assert [rule["minimum"], rule["maximum"], rule["default"]] == wanted_rule, f"{name}: {rule}"
        assert set(rules) & {"audio", "start_video", "guidance_scale_2"} == set(), "fields that the model does not take"
        assert "source" not in json.dumps(listed), "where a model lies is not told"

    def lengths(self, service: Service) -> None:
        for seconds, fps, frames in ((1.125, 8, 9), (1, 8, 9), ("0.625", 8, 5), (0.5, 8, 5), (4, 8, 33), (1.1, 30, 33)):
            video = service.create(model="first", seconds=seconds, fps=fps)
            assert (video["num_frames"], video["fps"]) == (frames, fps), f"{seconds} s: {video['num_frames']} frames"
            told = f"{frames / fps:.3f}".rstrip("0").rstrip(".")
            assert video["seconds"] == told, f"{frames} frames at {fps}: {video['seconds']} s, not {told}"
        for wrong in (1.2, 0, -1, "x", 1.127):
            refused(
                service, 400, "seconds", "POST", "/videos", json={"prompt": "a", "seconds": wrong, "model": "first"}
            )
        assert service.create(model="first", seconds=1, num_frames=9)["num_frames"] == 9

    def queues(self, service: Service) -> None:
        """Three times the default's work is the most of the interactive queue."""
        for asked, queue in (
            ({"steps": 12}, "interactive"),
            ({"steps": 13}, "bulk"),
            ({"steps": 12, "priority": "bulk"}, "bulk"),
            ({"steps": 9, "size": "96x64"}, "bulk"),
            ({"steps": 8, "size": "96x64"}, "interactive"),
            ({"num_frames": 33}, "bulk"),
        ):
            assert service.create(model="first", **asked)["priority"] == queue, f"{asked}: is to be {queue}"
        refused(
            service,
            400,
            "priority",
            "POST",
            "/videos",
            json={"prompt": "a", "model": "first", "steps": 13, "priority": "interactive"},
        )
        costs = {video["id"]: video for video in service.http.get("/videos?limit=6").json()["data"]}
        for video_id, video in costs.items():
            width, height = map(int, video["size"].split("x"))
            job = service.store.get(video_id)
            wanted = width * height * video["num_frames"] * video["steps"] / (64 * 64 * 9 * 4)
            assert job is not None and math.isclose(job.cost, wanted), (
                f"{video_id}: costs {job and job.cost}, not {wanted}"
            )

    def adapters(self, service: Service) -> None:
        def uses(**asked: Any) -> list[tuple[str, float]]:
            return [(use["name"], use["scale"]) for use in service.create(model="first", **asked)["loras"] or []]

        assert uses() == [("own", 0.5)]
        for text in ("look:0.25,more", [{"name": "look", "scale": 0.25}, {"name": "more"}]):
            assert uses(loras=text) == [("own", 0.5), ("look", 0.25), ("more", 1.0)]
        assert uses(loras="own:1.5,look") == [("own", 1.5), ("look", 0.75)]
        for wrong in ("none", "look:1.6", "look:0.2", "look,look", "look,other", "own,look,more,more", "look:x"):
            refused(service, 400, "loras", "POST", "/videos", json={"prompt": "a", "model": "first", "loras": wrong})
        stale = [{"name": "look", "sha256": "cd" * 32}]
        refused(service, 400, "loras", "POST", "/videos", json={"prompt": "a", "model": "first", "loras": stale})
        refused(service, 400, "loras", "POST", "/videos", json={"prompt": "a", "model": "plain", "loras": "look"})
        kept = service.create(model="first", loras="look")
        remix = service.http.post(f"/videos/{kept['id']}/remix", json={"prompt": "b"}).json()
        assert remix["loras"] == kept["loras"], f"a remix has the adapters {remix['loras']}, not {kept['loras']}"

    def labels(self, service: Service) -> None:
        pairs = {f"k{number}" if number else "k" * 64: "v" * 512 for number in range(16)}
        assert service.create(metadata=pairs)["metadata"] == pairs
        assert service.create(metadata="a=b, c = d")["metadata"] == {"a": "b", "c": "d"}
        for wrong in (pairs | {"q": "r"}, {"": "v"}, {"k" * 65: "v"}, {"k": "v" * 513}, "novalue"):
            refused(service, 400, "metadata", "POST", "/videos", json={"prompt": "a", "metadata": wrong})
        for query in ("metadata[a]=b&metadata[a]=c", "metadata=b", "metadata[]=b"):
            assert service.http.get(f"/videos?{query}").status_code == 400, query

    def receivers(self, service: Service) -> None:
        start = "https://1.1.1.1/"
        longest = start + "a" * (MAX_URL_CHARS - len(start))
        service.create(webhook_url=longest)
        encoded = longest[:-1] + "\u00e4"  # six characters once it is encoded
        hosts = ("http://1.1.1.1/", "https://10.0.0.1/", "https://a:b@1.1.1.1/", f"{start}#a", "https://1.1.1.1:0/")
        for wrong in (longest + "a", encoded, *hosts):
            code = "webhook_url_not_allowed" if wrong in hosts[:2] else "webhook_url"
            refused(service, 400, code, "POST", "/videos", json={"prompt": "a", "webhook_url": wrong})


class Pictures(Scene):
    """Images of every shape and kind, for the first and the last frame."""

    name = "by hand: images of every shape"
    promise = "an image is what the model gets: upright, of the video's size, whole or cut evenly"

    def play(self, stage: Stage) -> None:
        with desk(image_bytes=40_000, image_pixels=200 * 200) as service:
            for width, height, size in (
                *((64, 64, "64x64"), (192, 128, "96x64"), (60, 90, "64x96"), (66, 64, "64x64"), (180, 64, "96x64")),
                (20, 190, "64x96"),
            ):
                assert_corners(self.ask(service, picture(width, height), size))
            for orientation in range(1, 9):
                turned = Image.Exif()
                turned[0x0112] = orientation
                back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)
                upright = corners(96, 64)
                lying = upright if back is None else upright.transpose(Image.Transpose(back))
                sent = encoded(lying, "JPEG", quality=95, exif=turned.tobytes())
                assert_corners(self.ask(service, sent, "96x64"))
            for kind in ("PNG", "WEBP", "JPEG"):
                assert_corners(self.ask(service, picture(90, 60, kind), "96x64"))
            assert_corners(self.ask(service, picture(160, 64), "64x64", size="64x64"))
            wide = np.asarray(self.ask(service, picture(128, 64), "64x64", size="64x64", fit="contain"))
            black = [int(wide[y, 20].sum()) < 30 for y in (0, 15, 18, 46, 48, 63)]
            assert black == [True, True, False, False, True, True], f"bars of a wide image: {black}"
            white = np.asarray(self.ask(service, encoded(Image.new("RGBA", (64, 64), (0, 0, 0, 0))), "64x64"))
            assert white.min() == 255, "a transparent image is not white"
            both = {"input_reference": data_uri(picture(192, 128)), "last_frame": data_uri(picture(64, 128))}
            video = service.create(model="first", **both)
            assert (video["task"], video["size"]) == ("first_last_frame", "96x64"), (video["task"], video["size"])
            assert [(each["role"], each["width"], each["height"]) for each in video["inputs"]] == [
                ("first", 96, 64),
                ("last", 96, 64),
            ], video["inputs"]
            remix = service.http.post(f"/videos/{video['id']}/remix", json={"prompt": "b"}).json()
            assert remix["task"] == video["task"], f"a remix of {video['task']} is {remix['task']}"
            images = [[(each["role"], each["sha256"]) for each in of["inputs"]] for of in (video, remix)]
            assert images[0] == images[1], f"a remix is made of other images: {images}"
            job = service.store.get(video["id"])
            folders = {each.key.split("/")[1] for each in job.params.inputs} if job else set()
            assert len(folders) == 1, f"images of one request lie in {folders}"
            self.at_once(service)
            self.limits(service)

    def at_once(self, service: Service) -> None:
        """Two requests with one key, of which the second had begun when the first was accepted."""
        asked = {"prompt": "a", "model": "first", "input_reference": data_uri(picture(64, 64))}
        repeated, service.store.repeated = service.store.repeated, lambda *_: None  # type: ignore[method-assign]
        before = set(service.parts.storage.keys("inputs/"))
        made = [service.http.post("/videos", json=asked, headers={"Idempotency-Key": "one"}) for _ in range(2)]
        service.store.repeated = repeated  # type: ignore[method-assign]
        assert made[0].json()["id"] == made[1].json()["id"] and made[1].headers["idempotent-replayed"] == "true"
        new = set(service.parts.storage.keys("inputs/")) - before
        assert len(new) == 1, f"of two requests with one key, images stay: {new}"

    def ask(self, service: Service, image: bytes, shape: str, **asked: Any) -> Image.Image:
        """Send an image, and return what the model gets."""
        video = service.create(model="first", input_reference=data_uri(image), **asked)
        assert (video["size"], video["task"]) == (shape, "image_to_video"), (
            f"an image for {shape} gives {video['size']}"
        )
        (given,) = video["inputs"]
        width, height = map(int, shape.split("x"))
        told = given["role"], given["width"], given["height"], given["content_type"]
        assert told == ("first", width, height, "image/png"), told
        answer = service.http.get(given["url"])
        assert hashlib.sha256(answer.content).hexdigest() == given["sha256"]
        assert answer.headers["content-type"] == "image/png"
        found = Image.open(BytesIO(answer.content))
        assert found.size == (width, height) and found.mode == "RGB" and not found.getexif()
        service.http.delete(f"/videos/{video['id']}")
        return found

    def limits(self, service: Service) -> None:
        def sent(image: bytes) -> int:
            body = {"prompt": "a", "model": "first", "input_reference": data_uri(image)}
            return service.http.post("/videos", json=body).status_code

        found = [sent(picture(200, height)) for height in (200, 201)]
        assert found == [200, 400], f"images of as many pixels as allowed, and of more: {found}"
        noise = Image.frombytes("RGB", (110, 110), random.Random(1).randbytes(110 * 110 * 3))
        plain, much = picture(64, 64), encoded(noise)
        assert 36_000 < len(much) < 40_000, len(much)
        assert sent(plain + bytes(40_000 - len(plain))) == 200 and sent(plain + bytes(40_001 - len(plain))) == 413, (
            "bytes"
        )
        moving = [encoded(corners(96, 64), kind, **MOVING) for kind in ("PNG", "WEBP")]
        for wrong in (b"", b"no image", much[:20_000], encoded(corners(64, 64), "GIF"), *moving):
            assert sent(wrong) == 400, f"{wrong[:10]!r} is taken for an image"
        for size, status in ((40_000, 200), (40_001, 413)):
            file = {"input_reference": ("x.png", plain + bytes(size - len(plain)))}
            found = service.http.post("/videos", data={"prompt": "a", "model": "first"}, files=file).status_code
            assert found == status, f"a file of {size} bytes in a form: {found}"
        larger = encoded(Image.frombytes("RGB", (150, 150), random.Random(2).randbytes(150 * 150 * 3)))
        with serving_file(larger, "image/png", {}) as port:
            body = {"prompt": "a", "model": "first", "input_reference": f"http://127.0.0.1:{port}/x.png"}
            found = service.http.post("/videos", json=body).status_code
            assert found == 413, f"{len(larger)} bytes by a URL, of 40,000 allowed: {found}"
        left = {key.split("/")[1] for key in service.parts.storage.keys("inputs/")}
        used = {folder for folder in left if service.store.inputs_in_use([folder])}
        assert left == used, f"images of refused requests stay: {left - used}"


class Refusals(Scene):
    """Queues and keys that are full, and when they are told to come again; polls by both of their ways."""

    name = "by hand: when to come again"
    promise = "who is refused is told how long that is expected to hold, and a poll says the same by every way"

    def play(self, stage: Stage) -> None:
        with desk(open_access=False, queue_cap=4) as service:
            keys, store = KeyStore(service.store.client), service.store
            scopes = frozenset({Scope.read, Scope.write})
            service.http.headers["Authorization"] = f"Bearer {keys.create('a', scopes)[1]}"
            self.full(service, 60, 1)  # of a model without workers nothing is known
            self.unmeasured(service, keys)
            announced(service, ModelSpec.model_validate(PLAIN), "one")
            store.client.rpush("adaspa:paces:plain", "7")
            self.full(service, 1, 1)
            self.full(service, 2 * 7, 3)
            self.in_flight(service, keys)
            self.polls(service, keys)

    def full(self, service: Service, seconds: int, n: int) -> None:
        made = [video["id"] for video in service.create(model="plain", n=4)["data"]]
        found = refused(service, 429, "queue_full", "POST", "/videos", json={"prompt": "a", "model": "plain", "n": n})
        assert found.headers["retry-after"] == str(seconds), (
            f"{n} more: in {found.headers['retry-after']}, not {seconds}"
        )
        for video_id in made:
            service.http.delete(f"/videos/{video_id}")

    def unmeasured(self, service: Service, keys: KeyStore) -> None:
        """With one job of one, which runs, and of whose model nobody knows how long it takes."""
        _, token = keys.create("one", frozenset({Scope.read, Scope.write}), max_in_flight=1)
        before, service.http.headers["Authorization"] = service.http.headers["Authorization"], f"Bearer {token}"
        lease = service.claim(service.create(model="plain")["id"])
        body = {"prompt": "a", "model": "plain"}
        found = refused(service, 429, "too_many_in_flight", "POST", "/videos", json=body).headers["retry-after"]
        assert found == "60", f"one more than a job of which nothing is known: in {found}"
        service.store.fail(lease, error_of("generation_failed"))
        service.http.headers["Authorization"] = before

    def in_flight(self, service: Service, keys: KeyStore) -> None:
        """With three jobs of three: one runs, and tells how long it will; two wait."""
        _, token = keys.create("few", frozenset({Scope.read, Scope.write}), max_in_flight=3)
        before, service.http.headers["Authorization"] = service.http.headers["Authorization"], f"Bearer {token}"
        made = [service.create(model="plain") for _ in range(3)]
        lease = service.claim(made[0]["id"])
        for left, soon in ((0.0, 1), (0.4, 1), (5.2, 6)):
            progress = Progress(phase="denoising", step=2, steps=4, eta_seconds=left)
            service.store.report_progress(lease, progress)
            for n, wanted in ((1, soon), (2, None), (3, None)):
                body = {"prompt": "a", "model": "plain", "n": n}
                found = refused(service, 429, "too_many_in_flight", "POST", "/videos", json=body)
                told = int(found.headers["retry-after"])
                assert wanted is None or told == wanted, f"{n} more of three, {left} s left: in {told}, not {wanted}"
                assert told >= soon, f"{n} more of three, {left} s left: in {told}"
        refused(service, 400, "n", "POST", "/videos", json={"prompt": "a", "model": "plain", "n": 4})
        service.store.fail(lease, error_of("generation_failed"))
        for video in made:
            service.http.delete(f"/videos/{video['id']}")
        service.http.headers["Authorization"] = before

    def polls(self, service: Service, keys: KeyStore) -> None:
        video = service.create(model="plain", quality="fast")
        (key,) = [each for each in keys.all() if each.name == "a"]
        path = f"/videos/{video['id']}"

        def alike() -> None:
            found = []
            for used in (0, int(service.store.now())):  # a key whose use has to be noted again takes the long way
                service.store.client.hset(f"adaspa:key:{key.id}", "last_used_at", used)
                answer = service.http.get(path)
                found.append((answer.status_code, answer.json(), answer.headers.get("openai-poll-after-ms")))
            assert found[0] == found[1], f"polled in two ways: {found}"

        alike()
        lease = service.claim(video["id"])
        service.store.report_progress(lease, Progress(phase="denoising", step=1, steps=4, eta_seconds=9.0))
        alike()
        service.complete(lease)
        alike()
        service.http.delete(path)
        alike()
        scope = keys.create("reader", frozenset({Scope.read}))[1]
        for token, status in ((scope, 404), ("adaspa_x", 401), (keys.create("w", frozenset({Scope.write}))[1], 403)):
            found = service.http.get(path, headers={"Authorization": f"Bearer {token}"}).status_code
            assert found == status, f"a poll with another key: {found}, not {status}"
        writer = {"Authorization": f"Bearer {keys.create('writer', frozenset({Scope.write}))[1]}"}
        own = service.http.post("/videos", json={"prompt": "a", "model": "plain"}, headers=writer).json()["id"]
        for _ in range(2):  # its use is noted by now: the short way
            found = service.http.get(f"/videos/{own}", headers=writer).status_code
            assert found == 403, f"a key that may only write polls its job: {found}"


SERVED_FOR = {"first": 3600, "extra": 7200}
"""Seconds for which models are announced; of one that no worker serves, the gateway's own start counts."""


class Offers(Scene):
    """Workers announce models, and what fits into their memory."""

    name = "by hand: models that are announced"
    promise = "clients see the catalog's models as the operator wrote them, and those that workers serve"

    def play(self, stage: Stage) -> None:
        with desk() as service:
            other = {"frames": [9], "default_frames": 9, "description": "a worker's own", "default_steps": 50}
            announced(service, ModelSpec.model_validate(FIRST | other), "one")
            extra = ModelSpec.model_validate(PLAIN | {"id": "extra", "max_batch": 50})
            announced(service, extra, "two", fits=Fits(limit=2**30, frames={"": {"64x64": 5}}))
            for model, ago in SERVED_FOR.items():
                service.store.client.hincrby("adaspa:served_since", model, -ago)
            until_swept(
                service, lambda: len(service.http.get("/models").json()["data"]) == 3, "an announced model is offered"
            )
            models = {model["id"]: model for model in service.http.get("/models").json()["data"]}
            assert list(models) == ["first", "plain", "extra"], list(models)
            first = models["first"]
            assert (first["description"], first["frames"]) == (FIRST["description"], FIRST["frames"]), first["frames"]
            assert (first["workers"], models["plain"]["workers"], models["extra"]["workers"]) == (1, 0, 1)
            for model, ago in SERVED_FOR.items():
                old = models["plain"]["created"] - models[model]["created"]
                assert abs(old - ago) < SERVED_FOR["first"] / 2, (
                    f"{model} was announced {ago} s ago, and is {old} s old"
                )
            assert models["extra"]["max_batch"] == QUEUE_CAP, "a batch is no longer than the queue"
            assert models["plain"]["max_batch"] == QUEUE_CAP, models["plain"]["max_batch"]
            assert service.create(model="first", num_frames=5)["steps"] == 4, "a worker's default steps"
            body = {"prompt": "a", "model": "extra"}
            error = refused(service, 400, "does_not_fit", "POST", "/videos", json=body | {"num_frames": 9}).json()[
                "error"
            ]
            assert error["param"] == "num_frames", error
            service.create(model="extra", num_frames=5)
            announced(service, extra, "three", fits=Fits(limit=2**31, frames={"": {"64x64": 9}}))
            service.create(model="extra", num_frames=9)
            announced(service, extra, "three", fits=Fits(limit=2**31, frames={"": {"64x64": 0}}))
            announced(service, extra, "two", fits=Fits(limit=2**31, frames={"": {"64x64": 0}}))
            error = refused(service, 400, "does_not_fit", "POST", "/videos", json=body | {"num_frames": 5}).json()[
                "error"
            ]
            assert error["param"] == "size", error
            announced(service, extra, "four")
            service.create(model="extra", num_frames=9)
            service.store.client.zadd("adaspa:served_until", {"extra": 0, "first": 0})
            until_swept(
                service,
                lambda: len(service.http.get("/models").json()["data"]) == 2,
                "a model that nobody announces goes",
            )
            refused(service, 400, "model", "POST", "/videos", json=body)
            assert service.http.get("/models/first").json()["description"] == FIRST["description"]


SCENES: list[Scene] = [Fields(), Pictures(), Refusals(), Offers()]
