"""Images in requests: as each kind of client sends them, what becomes of them, and how bad ones are refused."""

import asyncio
import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from adaspa_api.words import Fit, Role
from adaspa_client import AsyncClient, Client, Video
from adaspa_command import adaspa
from adaspa_jobs.logs import AUDIT
from adaspa_jobs.settings import Settings
from adaspa_jobs.storage import StorageUnavailable
from adaspa_jobs.store import InputsLate, Lease, QueueFull, StoreUnavailable
from adaspa_service.errors import ApiError
from adaspa_service.gateway import videos
from adaspa_service.gateway.orphans import find_orphans, remove_orphan
from adaspa_service.gateway.removal import remove, remove_lost_inputs
from adaspa_service.inputs.clips import Tail
from adaspa_service.inputs.keep import Inputs
from adaspa_service.inputs.source import uploaded
from adaspa_service.inputs.turns import AT_A_TIME, OF_AN_OWNER, Turns
from admitting import create
from claiming import FAILURE
from drawn import MOVING, assert_corners, claims, picture
from http_server import answering
from PIL import Image
from refusals import check_refused
from running_gateway import Service, data_uri, demo_catalog, serving
from waiting import PATIENCE, until

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
LIMIT = 300_000
MODELS = {
    "both": {"tasks": ["text_to_video", "image_to_video", "first_last_frame"], "sizes": ["64x64", "128x64", "64x128"]},
    "image": {"tasks": ["image_to_video"]},
    "text": {},
    "reference": {"tasks": ["text_to_video", "reference_to_video"], "sizes": ["64x64", "128x64"]},
}
WIDE = picture(200, 104)


@pytest.fixture(scope="module")
def gateway(valkey_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One gateway with models of several tasks; images may come from this machine, under one name."""
    folder = tmp_path_factory.mktemp("gateway")
    settings = Settings(
        redis_url=f"unix://{valkey_socket}?db=0",
        storage_url=str(folder / "objects"),
        catalog=demo_catalog(folder / "catalog.json", MODELS),
        image_bytes=LIMIT,
        image_pixels=1_000_000,
        image_networks="127.0.0.1/32",
        open_access=True,
    )
    addresses = {"images.example.com": ["127.0.0.1"], "inside.example.com": ["127.0.0.2"]}

    def resolve(host: str, port: int) -> list[str]:
        if host[:1].isdigit():
            return [host]
        if host not in addresses:
            raise OSError("Name or service not known")
        return addresses[host]

    with serving(settings, folder, resolve) as running:
        yield running


@pytest.fixture
def service(emptied: Service) -> Service:
    """The gateway with nothing in its store and its storage."""
    return emptied


@pytest.fixture(scope="module")
def images() -> Iterator[str]:
    """The address of a server of images, under a name: good ones, and such as misbehave."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            getattr(self, f"send_{self.path[1:].split('?')[0]}")()

        def answer(self, content: bytes, kind: str = "image/png", status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def send_good(self) -> None:
            self.answer(WIDE)

        def send_moved(self) -> None:
            self.answer(b"", status=302, Location="/good")

        def send_inside(self) -> None:
            self.answer(b"", status=302, Location=f"http://127.0.0.2:{self.server.server_port}/good")

        def send_metadata(self) -> None:
            self.answer(b"", status=307, Location="http://169.254.169.254/latest/meta-data")

        def send_file(self) -> None:
            self.answer(b"", status=302, Location="file:///etc/passwd")

        def send_round(self) -> None:
            self.answer(b"", status=302, Location="/round")

        def send_nowhere(self) -> None:
            self.answer(b"", status=302, Location="http://[")

        def send_page(self) -> None:
            self.answer(b"<html>no image</html>", "text/html")

        def send_lie(self) -> None:
            self.answer(b"<html>no image</html>", "image/png")

        def send_missing(self) -> None:
            self.answer(WIDE, status=404)

        def send_large(self) -> None:
            self.answer(b"x" * (LIMIT + 1))

        def send_endless(self) -> None:
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b"x" * 65536)

        def send_slow(self) -> None:
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b"x")
                time.sleep(0.05)

        def send_cut(self) -> None:
            self.answer(WIDE[:50], **{"Content-Length": str(len(WIDE))})

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with answering(Handler) as port:
        yield f"http://images.example.com:{port}"


def stored(service: Service) -> list[str]:
    return service.parts.storage.keys("inputs/")


def shown(service: Service, video: dict[str, Any], role: str = "first") -> Image.Image:
    """The image that a video is made of, by its URL."""
    (url,) = [each["url"] for each in video["inputs"] if each["role"] == role]
    response = service.http.get(url)
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png"), response.text
    return Image.open(BytesIO(response.content))


def post(service: Service, **fields: Any) -> httpx.Response:
    return service.http.post("/v1/videos", json={"prompt": "a red circle", **fields})


WAYS = ["file", "form text", "form url", "form object", "form field of object", "json", "json object", "json url"]
OTHERS = ["reference_url", "image_reference", "image_reference in a form", "long json", "upper case"]
OTHERS += ["conditions", "conditions with a file", "conditions in a form"]


@pytest.mark.parametrize("way", [*WAYS, *OTHERS])
def test_an_image_is_taken_as_each_client_sends_it(service: Service, images: str, way: str) -> None:
    noisy = Image.effect_noise((400, 208), 90).convert("RGB")
    long = BytesIO()
    noisy.save(long, "PNG")
    uri, url = data_uri(WIDE), f"{images}/good"
    form: dict[str, Any] = {
        "file": {"input_reference": ("a.png", WIDE, "image/png")},
        "form text": {"input_reference": (None, uri)},
        "form url": {"input_reference": (None, url)},
        "form object": {"input_reference": (None, json.dumps({"image_url": uri}))},
        "form field of object": {"input_reference[image_url]": (None, uri)},
        "conditions in a form": {"conditions": (None, json.dumps([{"role": "first", "kind": "image", "url": uri}]))},
        "image_reference in a form": {"image_reference": (None, json.dumps({"image_url": uri}))},
    }
    fields: dict[str, Any] = {
        "json": {"input_reference": uri},
        "json object": {"input_reference": {"image_url": uri}},
        "json url": {"input_reference": url},
        "conditions": {"conditions": [{"role": "first", "url": uri}]},
        "conditions with a file": {"conditions": [{"role": "first", "kind": "image", "file": uri}]},
        "reference_url": {"reference_url": url},
        "image_reference": {"image_reference": {"image_url": uri}},
        "long json": {"input_reference": data_uri(long.getvalue())},
        "upper case": {"input_reference": uri.replace("data:image/png", "DATA:Image/PNG")},
    }
    if way in form:
        response = service.http.post("/videos", data={"prompt": "a red circle"}, files=form[way])
    else:
        response = post(service, **fields[way])
    assert response.status_code == 200, response.text
    video = response.json()
    assert (video["task"], video["size"]) == ("image_to_video", "128x64")
    image = shown(service, video)
    assert image.size == (128, 64)
    if way != "long json":
        assert_corners(image)
    job = service.store.get(video["id"])
    assert job is not None and [each.key for each in job.params.inputs] == stored(service)
    assert job.params.needs == 1 and service.messages("both") == 1


def test_a_long_data_uri_may_be_escaped_as_each_encoder_of_json_does(service: Service) -> None:
    noisy = BytesIO()
    Image.effect_noise((400, 208), 90).convert("RGB").save(noisy, "PNG")
    uri = data_uri(noisy.getvalue())
    plain = json.dumps({"prompt": "a red circle", "input_reference": uri})
    wrapped = "\\r\\n".join(uri[at : at + 76] for at in range(0, len(uri), 76))
    escaped = {
        "as it is": plain,
        "PHP": plain.replace("/", "\\/"),
        "Gson": plain.replace("=", "\\u003d"),
        "lines": plain.replace(uri, wrapped),
        "capitals": plain.replace("data:image/png;base64", "DATA:IMAGE/PNG;BASE64"),
    }
    found = {
        name: service.http.post("/videos", content=body, headers={"Content-Type": "application/json"})
        for name, body in escaped.items()
    }
    assert {name: response.status_code for name, response in found.items()} == dict.fromkeys(escaped, 200)
    assert len({response.json()["inputs"][0]["sha256"] for response in found.values()}) == 1


def test_openais_client_sends_a_file_and_a_reference(service: Service, images: str, tmp_path: Path) -> None:
    path = tmp_path / "start.png"
    path.write_bytes(WIDE)
    with service.openai() as client:
        ways: list[dict[str, Any]] = [
            *({"input_reference": given} for given in (path, WIDE, ("start.png", WIDE, "image/png"))),
            {"extra_body": {"input_reference": {"image_url": f"{images}/good"}}},
        ]
        for given in ways:
            video = client.videos.create(prompt="a red circle", **given)
            assert video.to_dict()["task"] == "image_to_video", given
            assert_corners(shown(service, video.to_dict()))
        with pytest.raises(openai.BadRequestError) as caught:
            client.videos.create(prompt="a red circle", extra_body={"input_reference": {"file_id": "file_1"}})
        assert caught.value.param == "input_reference[file_id]"


def test_the_clients_send_a_path_bytes_or_a_url(service: Service, images: str, tmp_path: Path) -> None:
    path = tmp_path / "start.png"
    path.write_bytes(WIDE)
    asked: dict[str, Any] = {"last_image": WIDE, "steps": 7, "guidance_scale": 2.5, "size": "128x64", "fit": "contain"}

    async def awaited(image: Path | str | bytes) -> list[Video]:
        async with AsyncClient(service.url) as client:
            return [await client.create("a red circle", image=image), *await client.create_batch("x", 2, image=image)]

    for image in (path, str(path), WIDE, f"{images}/good", data_uri(WIDE)):
        with Client(service.url) as client:
            both = client.create("a red circle", image=image, **asked)
        assert (both.task, both.steps, both.guidance_scale, both.size) == ("first_last_frame", 7, 2.5, "128x64")
        for video in (both, *asyncio.run(awaited(image))):
            assert_corners(shown(service, video.model_dump()))


def test_the_command_sends_an_image(service: Service, images: str, tmp_path: Path) -> None:
    path = tmp_path / "start.png"
    path.write_bytes(WIDE)
    asked = ("generate", "a red circle", "--detach", "--json", "--server", service.url)
    for image in (str(path), f"{images}/good"):
        made = adaspa(*asked, "--image", image, "--last-image", str(path), "--fit", "contain")
        video = json.loads(made.stdout)
        assert video["task"] == "first_last_frame"
        assert_corners(shown(service, video))
    for more, said in (
        (("--image", str(tmp_path / "none.png")), "--image: "),
        (("--image", str(path), "--model", "text"), "model text does not take"),
    ):
        refused = adaspa(*asked, *more)
        assert refused.returncode and said in refused.stderr, refused.stderr


def test_first_and_last_frame_and_how_they_fit(service: Service) -> None:
    high = picture(64, 160)
    both = {"input_reference": data_uri(WIDE), "last_frame": data_uri(high)}
    video = post(service, **both, size="64x64", fit="contain").json()
    assert (video["task"], video["size"]) == ("first_last_frame", "64x64")
    assert_corners(shown(service, video).crop((0, 16, 64, 48)))
    last = shown(service, video, "last")
    assert last.getpixel((2, 32)) == (0, 0, 0) and last.size == (64, 64)
    assert post(service, input_reference=data_uri(high)).json()["size"] == "64x128"
    assert post(service, input_reference=data_uri(picture(50, 50))).json()["size"] == "64x64"
    assert_corners(shown(service, post(service, **both, size="64x64").json(), "last"))
    chosen = post(service, **both).json()
    assert chosen["size"] == "128x64", "as the first one suggests"
    assert [shown(service, chosen, frame).size for frame in ("first", "last")] == [(128, 64)] * 2


@pytest.mark.parametrize("way", ["file", "json", "conditions", "command"])
def test_a_reference_stays_whole_and_chooses_no_size(service: Service, tmp_path: Path, way: str) -> None:
    asked = {"prompt": "a red circle", "model": "reference"}
    fields: dict[str, Any] = {
        "json": {"reference_image": data_uri(WIDE)},
        "conditions": {"conditions": [{"role": "reference", "kind": "image", "url": data_uri(WIDE)}]},
    }
    if way == "command":
        (path := tmp_path / "somebody.png").write_bytes(WIDE)
        options = (
            "--reference-image",
            str(path),
            "--model",
            "reference",
            "--detach",
            "--json",
            "--server",
            service.url,
        )
        video = json.loads(adaspa("generate", "a red circle", *options).stdout)
    else:
        sent = {"files": {"reference_image": ("a.png", WIDE)}, "data": asked} if way == "file" else {}
        response = service.http.post("/videos", **sent or {"json": asked | fields[way]})
        assert response.status_code == 200, response.text
        video = response.json()
    assert (video["task"], video["size"]) == ("reference_to_video", "64x64")
    assert "variant=reference_image" in video["inputs"][0]["url"]
    image = shown(service, video, "reference")
    assert image.size == (200, 104)
    assert_corners(image)


def test_an_image_is_shown_to_its_owner_and_by_a_link_and_to_nobody_else(service: Service) -> None:
    video = post(service, input_reference=data_uri(WIDE)).json()
    link = service.http.get(f"/videos/{video['id']}/link", params={"variant": "first_frame"}).json()["url"]
    whole = httpx.get(link)
    assert whole.status_code == 200 and whole.headers["content-type"] == "image/png"
    assert httpx.get(link, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    assert httpx.get(link.replace("first_frame", "last_frame")).status_code == 403
    missing = service.http.get(f"/videos/{video['id']}/content", params={"variant": "last_frame"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "variant_not_found")
    assert service.http.get(f"/videos/{video['id']}/content").status_code == 409


@pytest.mark.parametrize("last", [1, 3], ids=["of the batch", "a remix of a remix"])
def test_images_are_shared_by_a_batch_and_by_remixes_and_go_with_the_last(service: Service, last: int) -> None:
    batch = post(service, input_reference=data_uri(WIDE), n=2).json()["data"]
    remixed = service.http.post(f"/videos/{batch[0]['id']}/remix", json={"prompt": "a blue circle"}).json()
    again = service.http.post(f"/videos/{remixed['id']}/remix", json={"prompt": "a green circle"}).json()
    assert again["inputs"][0]["sha256"] == batch[0]["inputs"][0]["sha256"] and again["task"] == "image_to_video"
    assert len(stored(service)) == 1
    assert not [
        value for key in service.store.client.keys("*") for value in [service.store.client.dump(key)] if b"PNG" in value
    ]
    earlier = [*batch, remixed, again]
    kept = earlier.pop(last)
    for video in earlier:
        service.http.delete(f"/videos/{video['id']}")
        until(lambda video=video: service.store.get(video["id"]) is None, "it is removed")
        assert len(stored(service)) == 1
    assert_corners(shown(service, kept))
    service.http.delete(f"/videos/{kept['id']}")
    until(lambda: not stored(service), "the image goes with the last job")
    assert service.store.client.keys("adaspa:inputs:*") == []


def test_a_job_whose_record_is_gone_keeps_no_image(service: Service) -> None:
    """Its image goes with the last job that is known, and is an orphan if there is none."""
    store, storage = service.store, service.parts.storage
    shared, alone = (post(service, input_reference=data_uri(WIDE), n=n).json()["data"] for n in (2, 1))
    kept = post(service, input_reference=data_uri(WIDE)).json()
    for video in (shared[0], *alone):
        store.client.delete(f"adaspa:job:{video['id']}")
    assert find_orphans(storage, store, 0)[0][0].prefix.startswith("inputs/") and len(stored(service)) == 3
    service.http.delete(f"/videos/{shared[1]['id']}")
    until(lambda: len(stored(service)) == 2, "the image goes with the last job that is known")
    lease = store.claim("both", "worker", "process")
    assert isinstance(lease, Lease) and lease.job.id == kept["id"], "the others are set aside"
    (orphan,), known = find_orphans(storage, store, 0)
    assert (orphan.job_id, orphan.files, known) == (None, 1, 1)
    remove_orphan(storage, store, orphan)
    assert find_orphans(storage, store, 0) == ([], 1)
    assert_corners(shown(service, kept))
    assert len(stored(service)) == len(store.client.keys("adaspa:inputs:*")) == 1


def test_a_link_to_an_image_ends_as_its_job_is_deleted_though_its_worker_has_not_let_go(service: Service) -> None:
    video_id = post(service, input_reference=data_uri(WIDE)).json()["id"]
    link = service.http.get(f"/videos/{video_id}/link", params={"variant": "first_frame"}).json()["url"]
    assert service.store.claim("both", "worker", "process") and httpx.get(link).status_code == 200
    service.http.delete(f"/videos/{video_id}")
    assert (httpx.get(link).status_code, service.store.get(video_id) is None) == (404, False)


def test_an_image_is_shown_whatever_has_become_of_its_job(service: Service) -> None:
    ids = [post(service, input_reference=data_uri(WIDE)).json()["id"] for _ in range(3)]
    service.http.post(f"/videos/{ids[0]}/cancel")
    for _ in range(2):
        lease = service.store.claim("both", f"worker-{len(ids)}", "process")
        assert lease is not None
        ids.append(lease.job.id)
        if len(ids) == 4:
            service.store.fail(lease, FAILURE)
    for video_id in set(ids):
        answer = service.http.get(f"/videos/{video_id}/content", params={"variant": "first_frame"})
        assert answer.status_code == 200, service.http.get(f"/videos/{video_id}").json()["status"]


def test_a_running_job_keeps_its_image_until_it_has_ended(service: Service) -> None:
    video = post(service, input_reference=data_uri(WIDE)).json()
    lease = service.store.claim("both", "worker", "process")
    assert lease is not None
    service.http.delete(f"/videos/{video['id']}")
    remove(service.parts, video["id"])
    assert len(stored(service)) == 1
    service.store.release_cancelled(lease)
    until(lambda: not stored(service), "it goes once the worker has let go")


def test_the_same_image_is_the_same_request(service: Service) -> None:
    def send(content: bytes, *, form: bool = False) -> httpx.Response:
        headers = {"Idempotency-Key": "one"}
        if form:
            files = {"input_reference": ("any name.jpg", content)}
            return service.http.post("/videos", data={"prompt": "a red circle"}, files=files, headers=headers)
        body = {"prompt": "a red circle", "input_reference": data_uri(content)}
        return service.http.post("/videos", json=body, headers=headers)

    first = send(WIDE)
    for again in (send(WIDE), send(WIDE, form=True)):
        assert again.json()["id"] == first.json()["id"] and again.headers["idempotent-replayed"] == "true"
    other = send(picture(104, 200))
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert len(stored(service)) == 1


def test_of_two_same_requests_at_a_time_the_second_leaves_no_image(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(videos, "repeated", lambda *_: None)  # neither has been accepted when the other one is read
    caplog.set_level(logging.INFO, AUDIT)
    asked = {"prompt": "a red circle", "input_reference": data_uri(WIDE)}
    first, second = (service.http.post("/videos", json=asked, headers={"Idempotency-Key": "one"}) for _ in range(2))
    assert first.json()["id"] == second.json()["id"] and len(stored(service)) == 1
    assert ("idempotent-replayed" in first.headers, second.headers["idempotent-replayed"]) == (False, "true")
    assert_corners(shown(service, second.json()))
    assert caplog.text.count("event=job.created") == service.messages("both") == 1


def test_images_of_no_job_are_orphans(service: Service) -> None:
    kept = post(service, input_reference=data_uri(WIDE)).json()
    forgotten = post(service, input_reference=data_uri(WIDE)).json()
    job = service.store.get(forgotten["id"])
    assert job is not None and job.params.inputs_folder
    service.store.client.delete(f"adaspa:inputs:{job.params.inputs_folder}")
    found, _ = find_orphans(service.parts.storage, service.store, 0)
    assert [(each.prefix, each.job_id, each.files) for each in found] == [
        (f"inputs/{job.params.inputs_folder}/", None, 1)
    ]
    remove_orphan(service.parts.storage, service.store, found[0])
    assert_corners(shown(service, kept))
    assert len(stored(service)) == 1


BAD: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "no image": ({"input_reference": data_uri(b"a red circle")}, "input_reference", "is not an image"),
    "empty": ({"input_reference": ""}, "input_reference", "is not an image"),
    "an empty uri": ({"input_reference": "data:image/png;base64,"}, "input_reference", "is empty"),
    "cut off": ({"input_reference": data_uri(WIDE[:-40])}, "input_reference", "damaged or incomplete"),
    "broken base64": ({"input_reference": data_uri(WIDE)[:-3] + "!!!"}, "input_reference", "has invalid base64"),
    "short base64": ({"input_reference": data_uri(WIDE) + "A"}, "input_reference", "has invalid base64"),
    "no base64": ({"input_reference": "data:image/png,abc"}, "input_reference", "not a base64 data URI"),
    "a video": ({"input_reference": data_uri(WIDE, "video/mp4")}, "input_reference", "is 'video/mp4'"),
    "100 megapixels": ({"input_reference": data_uri(claims(10_000, 10_000))}, "input_reference", "up to 1000000"),
    "moves": ({"input_reference": data_uri(picture(**MOVING))}, "input_reference", "is animated (2 frames)"),
    "too large": ({"input_reference": data_uri(bytes(LIMIT + 1))}, "input_reference", f"up to {LIMIT} bytes"),
    "a number": ({"input_reference": 5}, "input_reference", "a URL or a data URI"),
    "an object without": ({"input_reference": {"image_url": None}}, "input_reference", "a URL or a data URI"),
    "a list": ({"input_reference": [data_uri(WIDE)]}, "input_reference", "a URL or a data URI"),
    "a kept file": ({"input_reference": {"file_id": "file_1"}}, "input_reference", "a URL or a data URI"),
    "a path": ({"input_reference": "/etc/passwd"}, "input_reference", "an http or https URL"),
    "another scheme": ({"input_reference": "file:///etc/passwd"}, "input_reference", "an http or https URL"),
    "two first frames": (
        {"input_reference": data_uri(WIDE), "reference_url": "http://images.example.com/"},
        "input_reference",
        "more than once",
    ),
    "two first frames by role": (
        {"conditions": [{"role": "first", "url": data_uri(WIDE)}, {"role": "first", "url": data_uri(WIDE)}]},
        "input_reference",
        "more than once",
    ),
    "another role": ({"conditions": [{"role": "style", "url": "x"}]}, "conditions", "allowed: first, last, reference"),
    "a sound as a first frame": (
        {"conditions": [{"role": "first", "kind": "audio", "url": "x"}]},
        "conditions",
        "conditions[0].kind: 'audio' is not supported; allowed: image, video",
    ),
    "two references": (
        {"model": "reference", "conditions": 2 * [{"role": "reference", "url": data_uri(WIDE)}]},
        "reference_image",
        "more than once",
    ),
    "a reference to a model without": (
        {"reference_image": data_uri(WIDE)},
        "reference_image",
        "it supports: text_to_video, image_to_video, first_last_frame",
    ),
    "a first frame to a model of references": (
        {"model": "reference", "reference_image": data_uri(WIDE), "input_reference": data_uri(WIDE)},
        "input_reference",
        "it supports: text_to_video, reference_to_video",
    ),
    "a video as a reference": (
        {"model": "reference", "reference_image": data_uri(WIDE, "video/mp4")},
        "reference_image",
        "is 'video/mp4'",
    ),
    "a reference that is to be cut": (
        {"model": "reference", "reference_image": data_uri(WIDE), "fit": "cover"},
        "fit",
        "allowed: none",
    ),
    "another kind": (
        {"conditions": [{"role": "last", "kind": "video", "url": "x"}]},
        "conditions",
        "conditions[0].kind: 'video' is not supported; allowed: image",
    ),
    **{
        f"a condition whose url is {url}": (
            {"conditions": [{"role": "first", "url": url}]},
            *("conditions", "conditions[0].url: is not a string; allowed: a URL or a data URI"),
        )
        for url in (None, 5, {"image_url": data_uri(WIDE)}, [])
    },
    "no list": ({"conditions": {"role": "first"}}, "conditions", "allowed: a list of objects"),
    "a url and a file": (
        {"conditions": [{"role": "first", "url": "x", "file": "x"}]},
        *("conditions", "kind (image, video, audio) and url or file"),
    ),
    "no url": ({"conditions": [{"role": "first"}]}, "conditions", "kind (image, video, audio) and url"),
    "the second is bad": (
        {"input_reference": data_uri(WIDE), "last_frame": data_uri(b"x")},
        "last_frame",
        "is not an image",
    ),
    "only the last": ({"last_frame": data_uri(WIDE)}, "last_frame", "allowed: both"),
    "a model of texts": (
        {"model": "text", "input_reference": data_uri(WIDE)},
        "input_reference",
        "it supports: text_to_video",
    ),
    "a model of one image": (
        {"model": "image", "input_reference": data_uri(WIDE), "last_frame": data_uri(WIDE)},
        "last_frame",
        "it supports: image_to_video",
    ),
    "a model of images": ({"model": "image"}, "input_reference", "required by model image"),
    "another fit": ({"input_reference": data_uri(WIDE), "fit": "stretch"}, "fit", "allowed: cover, contain"),
    "nothing to fit": ({"fit": "cover"}, "fit", "no effect without an image"),
    "another size": ({"input_reference": data_uri(WIDE), "size": "200x104"}, "size", "allowed: 64x64, 128x64"),
    "another field": ({"input_reference": data_uri(WIDE), "steps": 0}, "steps", "allowed: 1 to 100"),
    "an image in a text": ({"prompt": data_uri(bytes(30_000))}, "prompt", "1 to 300 characters"),
    "a large image in a text": ({"prompt": data_uri(bytes(90_000))}, None, "up to 1048576 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_refused_and_nothing_stays(service: Service, name: str) -> None:
    fields, param, allowed = BAD[name]
    response = post(service, **fields)
    check_refused(service, response, 413 if "large" in name else 400, param, allowed)
    assert service.parts.storage.keys("") == []


FORMS: dict[str, tuple[list[tuple[str, Any]], int, str | None, str]] = {
    "no image": ([("input_reference", ("a.png", b"x"))], 400, "input_reference", "is not an image"),
    "empty": ([("input_reference", ("a.png", b""))], 400, "input_reference", "is empty"),
    "too large": ([("input_reference", ("a.png", bytes(LIMIT + 1)))], 413, "input_reference", f"up to {LIMIT} bytes"),
    "two first frames": (
        [("input_reference", ("a.png", WIDE)), ("input_reference", ("b.png", WIDE))],
        *(400, "input_reference", "more than once"),
    ),
    "a broken list": ([("conditions", (None, "[{"))], 400, "conditions", "not JSON"),
    "no url in a list": (
        [("conditions", (None, '[{"role": "first", "url": null}]'))],
        *(400, "conditions", "conditions[0].url: is not a string"),
    ),
    "another file": ([("mask", ("a.png", WIDE))], 400, "mask", "does not take a file"),
    "much text": (
        [("input_reference", ("a.png", WIDE)), ("negative_prompt", (None, "x" * 1_100_000))],
        413,
        None,
        "1048576",
    ),
    "not too much text": ([("negative_prompt", (None, "x" * (2**20 - 1)))], 400, "negative_prompt", "characters"),
    "a byte too much text": ([("negative_prompt", (None, "x" * 2**20))], 413, None, "1048576"),
    "much in several": ([(f"a{n}", (None, "x" * 300_000)) for n in range(4)], 413, None, "1048576"),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_bad_form_is_refused_and_nothing_stays(service: Service, name: str) -> None:
    parts, status, param, allowed = FORMS[name]
    check_refused(service, service.http.post("/videos", data={"prompt": "x"}, files=parts), status, param, allowed)
    assert service.parts.storage.keys("") == []


def test_a_form_that_breaks_off_is_refused_and_makes_no_video_without_its_image(service: Service) -> None:
    """Its length is right, so that only its last boundary tells."""
    part = "--b\r\nContent-Disposition: form-data; name="
    form = f'{part}"prompt"\r\n\r\na red circle\r\n{part}"input_reference"; filename="a.png"\r\n\r\n'.encode()
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    for cut in (b"", form, form + WIDE, form + WIDE + b"\r\n--b\r\n"):
        response = service.http.post("/videos", content=cut, headers=headers)
        check_refused(service, response, 400, None, "ends before its last boundary")
    assert service.http.post("/videos", content=form + WIDE + b"\r\n--b--", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/inside", "has a private address"),
        ("/metadata", "has a private address"),
        ("/file", "an http or https URL"),
        ("/nowhere", "redirects to something that is not a URL"),
        ("/round", "redirects too often; allowed: up to 3"),
        ("/page", "content is 'text/html'"),
        ("/lie", "is not an image"),
        ("/missing", "answers HTTP 404"),
        ("/large", f"up to {LIMIT} bytes"),
        ("/endless", f"up to {LIMIT} bytes"),
        ("/slow", "took too long; allowed: up to 1 s"),
        ("/cut", "cut off"),
    ],
)
def test_a_url_that_misbehaves_is_refused_and_nothing_stays(
    service: Service, images: str, path: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path == "/slow":
        monkeypatch.setattr("adaspa_service.inputs.fetch.TOTAL_SECONDS", 1.0)
    response = post(service, input_reference=images + path)
    check_refused(service, response, 413 if "bytes" in allowed else 400, "input_reference", allowed)
    assert service.parts.storage.keys("") == []


@pytest.mark.parametrize(
    "url",
    [
        *("http://inside.example.com/", "http://127.0.0.2/", "http://10.0.0.1/", "http://169.254.169.254/"),
        *("http://unknown.example.com/", "http://user:secret@images.example.com/", "http://", "http://[/"),
    ],
)
def test_a_url_inside_is_refused_and_so_is_none(service: Service, url: str) -> None:
    check_refused(service, post(service, input_reference=url), 400, "input_reference", "public address")


def test_a_redirect_to_a_public_address_is_followed(service: Service, images: str) -> None:
    assert_corners(shown(service, post(service, input_reference=f"{images}/moved").json()))


def test_a_body_that_is_cut_off_in_the_middle_leaves_nothing(service: Service) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    head = "POST /videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: {}\r\nContent-Length: 200000\r\n\r\n"
    form = b'--b\r\nContent-Disposition: form-data; name="input_reference"; filename="a.png"\r\n\r\n' + WIDE
    text = b'{"prompt": "x", "input_reference": "' + data_uri(bytes(90_000)).encode()
    for kind, body in (("multipart/form-data; boundary=b", form), ("application/json", text)):
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as raw:
            raw.sendall(head.format(kind).encode() + body)
    assert service.http.get("/healthz").status_code == 200
    assert service.parts.storage.keys("") == [] and service.messages("both") == 0


def test_images_that_come_slowly_wait_for_a_turn_and_keep_no_text_out(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    head = (
        b"POST /videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 400000\r\n\r\n"
    )
    monkeypatch.setattr("adaspa_service.inputs.turns.WAIT_SECONDS", 0.5)
    with ExitStack() as open_ones:
        for _ in range(OF_AN_OWNER):
            raw = open_ones.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE))
            raw.sendall(head + b'{"input_reference": "data:image/png;base64,' + b"A" * 300_000)
        refused: list[httpx.Response] = []

        def is_full() -> bool:
            refused[:] = [post(service, input_reference=data_uri(WIDE))]
            return refused[0].status_code == 503

        until(is_full, "all turns are taken")
        assert refused[0].json()["error"]["code"] == "too_many_images" and refused[0].headers["retry-after"]
        assert post(service).status_code == 200
    until(lambda: post(service, input_reference=data_uri(WIDE)).status_code == 200, "the turns are free again")


def test_an_owner_has_a_part_of_the_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaspa_service.inputs.turns.WAIT_SECONDS", 0.1)

    async def take_all() -> None:
        turns = Turns()
        with ExitStack() as held:

            async def take(owner: str) -> None:
                await held.enter_context(turns.of(owner)).take()

            for _ in range(OF_AN_OWNER):
                await take("one")
            with pytest.raises(ApiError, match="try again"):
                await take("one")
            for n in range(AT_A_TIME - OF_AN_OWNER):
                await take(f"other {n}")
            with pytest.raises(ApiError, match="try again"):
                await take("late")
        with turns.of("late") as turn:
            await turn.take()
            await turn.take()  # is the same

    asyncio.run(take_all())


def test_a_janitor_removes_images_that_no_job_was_admitted_for(service: Service) -> None:
    """What a gateway leaves that is killed between the two."""
    kept = post(service, input_reference=data_uri(WIDE)).json()
    store, storage = service.store, service.parts.storage
    inputs = Inputs(service.parts.settings, storage, lambda *_: [], store.await_inputs)
    source = {Role.first: uploaded(BytesIO(WIDE))}
    taken = asyncio.run(inputs.take(source, "open", lambda *_: (64, 64), Fit.cover, Tail(17, 8)))
    inputs.close()
    folder = taken[0].key.split("/")[1]
    remove_lost_inputs(service.parts)
    assert len(stored(service)) == 2 and find_orphans(storage, store, 0)[0] == []  # it may still be admitted
    store.client.zadd("adaspa:awaited_inputs", {folder: 0})
    remove_lost_inputs(service.parts)
    assert len(stored(service)) == 1
    assert_corners(shown(service, kept))
    job = store.get(kept["id"])
    assert job is not None
    with pytest.raises(InputsLate):
        create(store, job.params.model_copy(update={"inputs": taken}))
    assert store.client.keys("adaspa:*_inputs") == []


def test_images_that_cannot_be_removed_now_are_removed_later(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    post(service, input_reference=data_uri(WIDE)).raise_for_status()
    (key,) = stored(service)
    folder, store = key.split("/")[1], service.store
    store.client.zadd("adaspa:lost_inputs", {folder: 0})

    def refuses(_: str) -> None:
        raise StorageUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(service.parts.storage, "delete_prefix", refuses)
        with pytest.raises(StorageUnavailable):
            remove_lost_inputs(service.parts)
    assert stored(service) == [key]
    remove_lost_inputs(service.parts)
    assert stored(service) == [] and not store.client.exists("adaspa:lost_inputs")


def test_a_request_whose_images_redis_forgot_is_refused_and_leaves_none(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failover to a replica that had not heard of them."""
    monkeypatch.setattr(service.parts.inputs, "_note", None)
    response = post(service, input_reference=data_uri(WIDE))
    assert (response.status_code, response.json()["error"]["code"]) == (503, "service_unavailable")
    assert stored(service) == [] and service.messages("both") == 0


def test_a_request_that_is_refused_after_its_image_was_taken_leaves_none(service: Service) -> None:
    asked = {"input_reference": data_uri(WIDE), "steps": 100, "priority": "interactive"}
    check_refused(service, post(service, **asked), 400, "priority", "allowed: bulk")
    assert stored(service) == []


@pytest.mark.parametrize("away", ["storage", "Redis"])
def test_a_refusal_is_told_though_its_image_cannot_be_removed_now(
    service: Service, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    def refuses(_: str) -> None:
        raise StorageUnavailable("away") if away == "storage" else StoreUnavailable("away")

    where: Any = (service.parts.storage, "delete_prefix") if away == "storage" else (service.store, "forget_inputs")
    asked = {"input_reference": data_uri(WIDE), "steps": 100, "priority": "interactive"}
    with monkeypatch.context() as patched:
        patched.setattr(*where, refuses)
        response = post(service, **asked)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "priority")


def test_a_refused_remix_leaves_its_source_the_image(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    source = post(service, input_reference=data_uri(WIDE)).json()

    def full(*_: object, **__: object) -> None:
        raise QueueFull

    with monkeypatch.context() as patched:
        patched.setattr(service.store, "admit_all", full)
        assert service.http.post(f"/videos/{source['id']}/remix", json={"prompt": "y"}).status_code == 429
        assert post(service, input_reference=data_uri(WIDE)).status_code == 429
    assert len(stored(service)) == 1
    assert_corners(shown(service, source))


def test_no_image_is_none_in_whatever_field(service: Service) -> None:
    empty = dict.fromkeys(("input_reference", "last_frame", "reference_image", "reference_audio", "start_video"))
    video = post(service, **empty).json()
    assert (video["task"], video["inputs"]) == ("text_to_video", [])


def test_models_say_what_they_do(service: Service) -> None:
    models = {model["id"]: model for model in service.http.get("/models").json()["data"]}
    assert {name: model["tasks"] for name, model in models.items()} == {
        name: own.get("tasks", ["text_to_video"]) for name, own in MODELS.items()
    }
    takes = {name: "input_reference" in model["parameters"]["properties"] for name, model in models.items()}
    assert takes == {"both": True, "image": True, "text": False, "reference": False}
    rules = models["both"]["parameters"]["properties"]
    assert rules["input_reference"]["x-role"] == "first" and rules["last_frame"]["x-role"] == "last"


@pytest.mark.parametrize("broken", [None, 1, 2], ids=["whole", "the first", "the second"])
def test_a_folder_of_images_is_noted_before_anything_lies_in_it_and_half_of_one_goes(
    service: Service, monkeypatch: pytest.MonkeyPatch, broken: int | None
) -> None:
    storage, done = service.parts.storage, list[str]()
    plain, note = storage.put_file, service.parts.inputs._note
    assert note is not None

    def put(key: str, *more: Any) -> Any:
        done.append("stored")
        if done.count("stored") == broken:
            raise StorageUnavailable("away")
        return plain(key, *more)

    monkeypatch.setattr(storage, "put_file", put)
    monkeypatch.setattr(service.parts.inputs, "_note", lambda folder: (done.append("noted"), note(folder))[1])
    answer = post(service, input_reference=data_uri(WIDE), last_frame=data_uri(WIDE))
    assert answer.status_code == (200 if broken is None else 503), answer.text
    assert done == ["noted", *["stored"] * (broken or 2)]
    assert len(stored(service)) == (2 if broken is None else 0)
