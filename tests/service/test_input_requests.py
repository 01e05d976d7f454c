"""Images in requests, as each kind of client sends them."""

import asyncio
import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import openai
import pytest
from adaspa_client import AsyncClient, Client, Video
from adaspa_command import adaspa
from drawn import assert_corners, picture
from image_requests import MODELS, WIDE, post, serving_images, shown, stored, taking_images
from PIL import Image
from running_gateway import Service, data_uri

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


@pytest.fixture(scope="module")
def gateway(valkey_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with taking_images(valkey_socket, tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def service(emptied: Service) -> Service:
    """The gateway with nothing in its store and its storage."""
    return emptied


@pytest.fixture(scope="module")
def images() -> Iterator[str]:
    with serving_images() as url:
        yield url


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


def test_a_redirect_to_a_public_address_is_followed(service: Service, images: str) -> None:
    assert_corners(shown(service, post(service, input_reference=f"{images}/moved").json()))


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
