"""Images in requests that are refused: bad ones, forms, URLs that misbehave, and more than there are turns for."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from adaspa_service.errors import ApiError
from adaspa_service.inputs.turns import AT_A_TIME, OF_AN_OWNER, Turns
from drawn import MOVING, claims, picture
from image_requests import LIMIT, WIDE, post, serving_images, taking_images
from refusals import check_refused
from running_gateway import Service, data_uri
from waiting import PATIENCE, until


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
