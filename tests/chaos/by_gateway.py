"""Scenes of a gateway that the audit runs by itself, with a store and a storage of its own: it plays the workers, so
that each number and each field of an answer is known beforehand."""

import hashlib
import json
import math
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from adaspa_api.report import JobError, LayerReport
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.fits import Fits
from adaspa_jobs.job import Progress
from adaspa_jobs.settings import Settings
from adaspa_jobs.storage import ObjectStorage, StorageUnavailable
from adaspa_service.access.keys import KeyStore, Scope
from drawn import MOVING, assert_corners, corners, encoded, picture
from http_server import serving_file
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from running_gateway import FILES, REPORT, Service, data_uri, serving
from tiny_catalog import model_spec, write_catalog
from valkey_process import running_valkey
from waiting import PATIENCE, until

from chaos.scenes import Scene
from chaos.sightings import SETTLED
from chaos.stage import Stage

LORA = {"source": "/nowhere", "sha256": "ab" * 32, "scale_range": [0.25, 1.5]}
FIRST = model_spec(
    "builtin:demo",
    id="first",
    sizes=["64x64", "96x64", "64x96"],
    frames=[9, 5, 33],
    tasks=["text_to_video", "image_to_video", "first_last_frame"],
    qualities=["exact", "fast"],
    output_formats=["webm", "mp4", "gif"],
    sparsity_range=[0.1, 0.9],
    retained_mass_range=[0.6, 0.95],
    flow_shift_range=[1, 8],
    warmup_range=[0.1, 0.5],
    max_batch=3,
    bulk_above=3,
    loras=[
        LORA | {"name": "own", "scale": 0.5},
        LORA | {"name": "look", "scale": 0.75, "group": "g"},
        LORA | {"name": "other", "group": "g"},
        LORA | {"name": "more"},
    ],
    default_loras=[{"name": "own"}],
    max_loras=3,
)
PLAIN = model_spec("builtin:demo", id="plain", negative_prompt=False, max_batch=20)
LAYERED = REPORT.model_copy(update={"layers": [LayerReport(layer=at, density=[0.5], recall=[0.9]) for at in (0, 1)]})
"""What AdaSpa did, with a part for each layer."""
MOST_SEED = 2**63 - 1
QUEUE_CAP = 12
CSP = "default-src 'none'; frame-ancestors 'none'"
SAFE = {"x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "no-referrer"}


@contextmanager
def desk(**settings: Any) -> Iterator[Service]:
    """A gateway at which the audit sits, open to everybody unless settings say otherwise."""
    with running_valkey("--appendonly", "yes", "--appendfsync", "always") as folder:
        own = {"redis_url": f"unix://{folder}/valkey.sock?db=0", "storage_url": str(folder / "objects")}
        own |= {"catalog": write_catalog(folder / "catalog.json", FIRST, PLAIN), "data_dir": folder / "data"}
        own |= {"open_access": True, "queue_cap": QUEUE_CAP, "image_networks": "127.0.0.0/8"}
        with serving(Settings(_env_file=None, **(own | settings)), folder) as running:
            for recent in (running.parts.loads, running.parts.times):  # what is known of a model is asked for anew
                recent._recent = lambda _: None  # type: ignore[method-assign]
            yield running


def refused(service: Service, status: int, what: str, method: str, path: str, **options: Any) -> httpx.Response:
    """Ask what has to be refused: with this code or for this field."""
    answer = service.http.request(method, path, **options)
    said = f"{method} {path} {str(options.get('json', options.get('data', '')))[:150]}"
    assert answer.status_code == status, f"{said}: {answer.status_code}, not {status}: {answer.text[:200]}"
    error = answer.json()["error"]
    kinds = {429: "rate_limit_error", 503: "server_error", 501: "server_error"}
    assert error["type"] == kinds.get(status, "invalid_request_error"), f"{said}: {error}"
    assert what in (error["param"], error["code"]), f"{said}: {error}, not {what}"
    assert (status in (429, 503)) == ("retry-after" in answer.headers), f"{said}: {dict(answer.headers)}"
    return answer


def announced(service: Service, spec: ModelSpec, worker: str, fits: Fits | None = None) -> None:
    """A worker says that it serves a model, and is counted for an hour: how busy this machine is must not matter."""
    service.store.announce(spec, worker, fits=fits)
    for name in ("workers", "serving"):
        service.store.client.zincrby(f"adaspa:{name}:{spec.id}", 3_600_000, worker)
    service.store.client.zincrby(f"adaspa:serving:{spec.id}:bulk", 3_600_000, worker)
    service.store.client.zincrby("adaspa:served_until", 3_600_000, spec.id)


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
        large = json.dumps({"prompt": "a", "user": "x" * 1024 * 1024})
        assert service.http.post("/videos", content=large, **post).status_code == 413, "over 1 MiB"
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
        refused(service, 400, "prompt", "POST", "/videos", files=[("prompt", (None, "a")), ("prompt", (None, "b"))])
        refused(service, 400, "prompt", "POST", "/videos", files={"prompt": ("a.txt", b"a")})
        refused(service, 400, "steps", "POST", "/videos", files={"prompt": (None, "a"), "steps": (None, "0")})


class Manners(Scene):
    """Clients that wait, that say too much or nothing, and a gateway that stops."""

    name = "by hand: clients that wait, and a gateway that stops"
    promise = "an answer is held as long as was asked, and a gateway that stops says so and answers all the same"

    def play(self, stage: Stage) -> None:
        with desk(max_connections=8) as service:
            self.waits(service)
            self.heads(service)
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
                ("WAIT=0; x", "wait=0"),
                ('wait="0"', "wait=0"),
            ),
            *(("await=0", None), ("wait=x", None), ("", None)),
        ):
            answer = service.http.post("/videos", json={"prompt": "a"}, headers={"Prefer": prefer})
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
                connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
                answer = connection.recv(4096).decode(errors="replace")
            assert answer.startswith(f"HTTP/1.1 {status} "), f"{[line[:40] for line in lines]}: {answer[:100]}"

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
            job = service.store.get(video["id"])
            folders = {each.key.split("/")[1] for each in job.params.inputs} if job else set()
            assert len(folders) == 1, f"images of one request lie in {folders}"
            self.limits(service)

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


def error_of(code: str) -> Any:
    return JobError.model_validate({"code": code, "message": "as it was told"})


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

    def in_flight(self, service: Service, keys: KeyStore) -> None:
        """With three jobs of three: one runs, and tells how long it will; two wait."""
        _, token = keys.create("few", frozenset({Scope.read, Scope.write}), max_in_flight=3)
        before, service.http.headers["Authorization"] = service.http.headers["Authorization"], f"Bearer {token}"
        made = [service.create(model="plain") for _ in range(3)]
        lease = service.claim(made[0]["id"])
        progress = Progress(phase="denoising", step=2, steps=4, eta_seconds=5.2)
        service.store.report_progress(lease, progress)
        for n, wanted in ((1, 6), (2, None), (3, None)):
            body = {"prompt": "a", "model": "plain", "n": n}
            found = refused(service, 429, "too_many_in_flight", "POST", "/videos", json=body)
            told = int(found.headers["retry-after"])
            assert wanted is None or told == wanted, f"{n} more of three: in {told}, not {wanted}"
            assert told >= 6, f"{n} more of three: in {told}"
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
            until(lambda: len(service.http.get("/models").json()["data"]) == 3, "an announced model is offered")
            models = {model["id"]: model for model in service.http.get("/models").json()["data"]}
            assert list(models) == ["first", "plain", "extra"], list(models)
            first = models["first"]
            assert (first["description"], first["frames"]) == (FIRST["description"], FIRST["frames"]), first["frames"]
            assert (first["workers"], models["plain"]["workers"], models["extra"]["workers"]) == (1, 0, 1)
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
            until(lambda: len(service.http.get("/models").json()["data"]) == 2, "a model that nobody announces goes")
            refused(service, 400, "model", "POST", "/videos", json=body)
            assert service.http.get("/models/first").json()["description"] == FIRST["description"]


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


class Leftovers(Scene):
    """What killed processes left in storage, and what only looks so."""

    name = "by hand: leftovers in storage"
    promise = "what belongs to no job goes, and what belongs to one stays"

    def play(self, stage: Stage) -> None:
        from adaspa_service.gateway import janitor  # noqa: PLC0415

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
            leaves = janitor.Janitor(service.parts)
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
            until(
                lambda: not [key for key in storage.keys(f"videos/{many}/") if "9-left" in key],
                "an attempt's leftovers go",
            )
            for video_id in (done, many):
                assert len(storage.keys(f"videos/{video_id}/")) == 3, f"files of {video_id}"
            for number in range(120):
                left(storage, f"videos/{many}/{number}", b"")
            service.http.delete(f"/videos/{many}")
            until(lambda: storage.keys(f"videos/{many}/") == [], "all files of a deleted job go")
            service.http.delete(f"/videos/{running['id']}")
            leaves.sweep()
            assert kept[0] in storage.keys("checkpoints/"), "a checkpoint went while its job runs"
            store.release_cancelled(lease)
            until(lambda: kept[0] not in storage.keys("checkpoints/"), "a deleted job's checkpoint goes")

    def orphans(self, service: Service, gone: str, other: str) -> None:
        from adaspa_service.gateway.orphans import find_orphans  # noqa: PLC0415

        storage, store = service.parts.storage, service.store
        left(storage, "videos/notes.txt", b"x")
        time.sleep(0.05)
        orphans, known = find_orphans(storage, store, 0.0)
        assert [(each.job_id, each.files, each.bytes) for each in orphans] == [(gone, 1, 1)], orphans
        assert known == 3, f"{known} known jobs and requests have files: two jobs, and images that are awaited"
        assert find_orphans(storage, store, 3600.0)[0] == [], "what was just written is no orphan"


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


SCENES: list[Scene] = [
    Fields(),
    Answers(),
    Manners(),
    Pictures(),
    Numbers(),
    Refusals(),
    Offers(),
    Histories(),
    Leftovers(),
    Doors(),
]
