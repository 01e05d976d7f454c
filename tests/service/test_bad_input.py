"""Every bad request: its status, the field it names, what it says is allowed, and that nothing came of it."""

import gzip
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from adaspa_api.fields import VideoCreate
from adaspa_api.limits import Refused
from adaspa_api.loras import read
from adaspa_jobs.settings import Settings
from adaspa_service.errors import ApiError
from adaspa_service.gateway.json_text import json_object
from pydantic import ValidationError
from refusals import check_refused
from running_gateway import Service, serving
from waiting import PATIENCE

BAD_FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"model": "sora-2"}, "model", "allowed: demo"),
    ({"model": ""}, "model", "allowed: demo"),
    ({"model": 5}, "model", "allowed: demo"),
    ({"model": "../../etc/passwd"}, "model", "allowed: demo"),
    ({"prompt": ""}, "prompt", "1 to 300 characters"),
    ({"prompt": " \n\t "}, "prompt", "1 to 300 characters"),
    ({"prompt": "x" * 301}, "prompt", "1 to 300 characters"),
    ({"prompt": None}, "prompt", "1 to 300 characters"),
    ({"prompt": ["a"]}, "prompt", "1 to 300 characters"),
    ({"negative_prompt": "x" * 301}, "negative_prompt", "0 to 300 characters"),
    ({"negative_prompt": 1}, "negative_prompt", "0 to 300 characters"),
    ({"negative_prompt": "grey", "guidance_scale": 1}, "negative_prompt", "allowed: none, or a guidance_scale over 1"),
    ({"size": "1280x720"}, "size", "allowed: 128x128"),
    ({"size": "128"}, "size", "allowed: 128x128"),
    ({"size": 128}, "size", "allowed: 128x128"),
    ({"size": "-128x128"}, "size", "allowed: 128x128"),
    ({"num_frames": 34}, "num_frames", "allowed: 33"),
    ({"num_frames": -33}, "num_frames", "allowed: 33"),
    ({"num_frames": 33.0}, "num_frames", "allowed: 33"),
    ({"num_frames": 10**400}, "num_frames", "allowed: 33"),
    ({"seconds": "12"}, "seconds", "4.125 (33 frames)"),
    ({"seconds": "long"}, "seconds", "4.125 (33 frames)"),
    ({"seconds": "nan"}, "seconds", "4.125 (33 frames)"),
    ({"seconds": -4}, "seconds", "4.125 (33 frames)"),
    ({"seconds": 4, "fps": 10}, "seconds", "3.3 (33 frames)"),
    ({"seconds": []}, "seconds", "4.125 (33 frames)"),
    ({"fps": 0}, "fps", "allowed: 1 to 30"),
    ({"fps": 31}, "fps", "allowed: 1 to 30"),
    ({"steps": 0}, "steps", "allowed: 1 to 100"),
    ({"steps": -5}, "steps", "allowed: 1 to 100"),
    ({"steps": 10**9}, "steps", "allowed: 1 to 100"),
    ({"steps": "24"}, "steps", "allowed: 1 to 100"),
    ({"steps": 2.5}, "steps", "allowed: 1 to 100"),
    ({"steps": True}, "steps", "allowed: 1 to 100"),
    ({"steps": {"a": 1}}, "steps", "allowed: 1 to 100"),
    ({"guidance_scale": 0.5}, "guidance_scale", "allowed: 1.0 to 10.0"),
    ({"guidance_scale": "4"}, "guidance_scale", "allowed: 1.0 to 10.0"),
    ({"guidance_scale": 1e999}, "guidance_scale", "allowed: 1.0 to 10.0"),
    ({"seed": -1}, "seed", "allowed: 0 to 9007199254740991"),
    ({"seed": 2**53}, "seed", "allowed: 0 to 9007199254740991"),
    ({"seed": "7"}, "seed", "allowed: 0 to 9007199254740991"),
    ({"sparsity": 1}, "sparsity", "allowed: 0.0 to 0.99"),
    ({"sparsity": -0.1}, "sparsity", "allowed: 0.0 to 0.99"),
    ({"sparsity": "high"}, "sparsity", "allowed: 0.0 to 0.99"),
    ({"sparsity": 0, "warmup": 2}, "warmup", "no effect with sparsity 0, which is fully dense; allowed: none"),
    ({"quality": "best"}, "quality", "allowed: exact, quality, balanced, fast"),
    ({"quality": 1}, "quality", "allowed: exact, quality, balanced, fast"),
    ({"quality": "fast", "sparsity": 0.5}, "quality", "allowed: a preset or settings"),
    ({"quality": "fast", "warmup": 3}, "quality", "allowed: a preset or settings"),
    ({"retained_mass": 0}, "retained_mass", "allowed: 0.5 to 0.999"),
    ({"retained_mass": 1}, "retained_mass", "allowed: 0.5 to 0.999"),
    ({"retained_mass": "all"}, "retained_mass", "allowed: 0.5 to 0.999"),
    ({"retained_mass": 0.9, "sparsity": 0.5}, "retained_mass", "allowed: one of the two"),
    ({"warmup": -1}, "warmup", "allowed: 0 to 23"),
    ({"warmup": 10, "steps": 10}, "warmup", "allowed: 0 to 9"),
    ({"warmup": 0.5}, "warmup", "allowed: 0 to 23"),
    ({"guidance_scale_2": 3.0}, "guidance_scale_2", "is not supported by model demo; allowed: none"),
    ({"flow_shift": 3.0}, "flow_shift", "is not supported by model demo; allowed: none"),
    ({"flow_shift": "far"}, "flow_shift", "allowed: none"),
    ({"output_format": "avi"}, "output_format", "allowed: mp4, webm, gif, webp"),
    ({"output_format": "MP4"}, "output_format", "allowed: mp4, webm, gif, webp"),
    ({"output_format": 4}, "output_format", "allowed: mp4, webm, gif, webp"),
    ({"audio": True}, "audio", "model demo does not generate sound; allowed: none"),
    ({"audio": False}, "audio", "model demo does not generate sound; allowed: none"),
    ({"audio": "loud"}, "audio", "allowed: none"),
    ({"colour": "red"}, "colour", "allowed: prompt, model, size"),
    ({"input_reference": {"image_url": "x"}}, "input_reference", "an http or https URL"),
    (
        {"input_reference": "http://127.0.0.1/"},
        "input_reference",
        "model demo does not take this image; it supports: text_to_video",
    ),
    ({"__class__": "x"}, "__class__", "allowed: prompt, model, size"),
]


@pytest.fixture(scope="module")
def gateway(valkey_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One gateway for all these requests: each of them is to leave nothing behind."""
    folder = tmp_path_factory.mktemp("gateway")
    settings = Settings(redis_url=f"unix://{valkey_socket}?db=0", storage_url=str(folder / "objects"))
    with serving(settings, folder) as running:
        yield running


@pytest.fixture
def service(gateway: Service, valkey: redis.Redis) -> Iterator[Service]:
    """The gateway with an empty store."""
    yield gateway
    gateway.settle()  # no bell is left for the next test


@pytest.mark.parametrize(("fields", "param", "allowed"), BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_a_bad_field_is_named_with_what_is_allowed(
    service: Service, fields: dict[str, Any], param: str, allowed: str
) -> None:
    body = json.dumps({"prompt": "a red circle", **fields}, allow_nan=True).replace("Infinity", "1e999")
    headers = {"Content-Type": "application/json"}
    check_refused(service, service.http.post("/v1/videos", content=body, headers=headers), 400, param, allowed)


def test_the_prompt_is_required(service: Service) -> None:
    check_refused(service, service.http.post("/videos", json={}), 400, "prompt", "1 to 300 characters")
    form = {"model": (None, "demo")}
    check_refused(service, service.http.post("/videos", files=form), 400, "prompt", "1 to 300 characters")


def test_seconds_and_frames_have_to_agree(service: Service) -> None:
    agreeing = {"prompt": "x", "seconds": "4", "num_frames": 33}
    assert service.http.post("/videos", json=agreeing).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"a red circle",
        b'{"prompt": "x"} trailing',
        b'{"prompt": "x", "steps": NaN}',
        b'{"prompt": "x", "steps": ' + b"9" * 5000 + b"}",
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": "\\ud800"}',
        b'{"\\udfff": 1}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"[]",
        b"null",
        b'"a red circle"',
    ],
    ids=lambda body: str(body[:24]),
)
def test_a_body_that_is_no_json_object_is_refused(service: Service, body: bytes) -> None:
    response = service.http.post("/videos", content=body, headers={"Content-Type": "application/json"})
    check_refused(service, response, 400, None)
    assert response.json()["error"]["code"] == "invalid_json"


def test_a_name_that_is_given_twice_is_refused(service: Service) -> None:
    body = b'{"prompt": "x", "steps": 1, "steps": 2}'
    response = service.http.post("/videos", content=body, headers={"Content-Type": "application/json"})
    check_refused(service, response, 400, "steps", "more than once")
    form = [("prompt", (None, "x")), ("prompt", (None, "y"))]
    check_refused(service, service.http.post("/videos", files=form), 400, "prompt", "more than once")


def test_what_lacks_a_part_is_not_said_to_be_missing(service: Service) -> None:
    response = service.http.post("/videos", json={"prompt": "x", "loras": [{"scale": 1.0}]})
    check_refused(service, response, 400, "loras", "field required; allowed: ")
    assert response.json()["error"]["code"] == "invalid_type"


class Name(str):
    """Counts how often names are compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other)


def test_the_second_one_of_many_names_is_found_without_comparing_all_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [Name(number) for number in range(2000)]
    loads = json.loads

    def with_many(*args: Any, object_pairs_hook: Callable[[list[tuple[str, int]]], Any], **kwargs: Any) -> Any:
        object_pairs_hook([(name, 0) for name in [*names, Name(1999)]])
        return loads(*args, **kwargs)

    monkeypatch.setattr(json, "loads", with_many)
    with pytest.raises(ApiError, match="1999: given more than once"):
        json_object(b"{}")
    assert Name.compared < 10 * len(names)


@pytest.mark.parametrize("wrong", [1, {}, {"name": "ink"}], ids=str)
def test_reading_many_adapters_ends_at_the_first_that_is_wrong_or_too_many(wrong: object) -> None:
    with pytest.raises(ValidationError) as refused:
        VideoCreate.model_validate({"prompt": "x", "loras": [wrong] * 1000}, strict=True)
    assert refused.value.error_count() <= 3
    with pytest.raises(Refused, match="1000 adapters; allowed: up to 16"):
        read(",".join(["ink"] * 1000))


def test_an_unknown_field_is_refused_before_the_others_are_read(service: Service) -> None:
    body = {"steps": 0, "prompt": 1, "colour": "red"}
    check_refused(service, service.http.post("/videos", json=body), 400, "colour", "unknown field")


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("conditions", '[{"role": "first"', "conditions: is not JSON: "),
        ("conditions", '[], "model": "demo"', "conditions: is not JSON: "),
        ("conditions", "{}", "conditions: is not a list; "),
        ("input_reference", '{"image_url": "a"', "input_reference: is not JSON: "),
    ],
)
def test_json_in_a_field_of_a_form_is_refused_under_its_name(service: Service, name: str, text: str, why: str) -> None:
    form = {"prompt": (None, "x"), name: (None, text)}
    check_refused(service, service.http.post("/videos", files=form), 400, name, why)


def test_an_image_to_a_model_that_takes_none_is_refused(service: Service) -> None:
    files = {"input_reference": ("a.png", b"\x89PNG", "image/png")}
    response = service.http.post("/v1/videos", data={"prompt": "x"}, files=files)
    check_refused(service, response, 400, "input_reference", "model demo does not take this image")


@pytest.mark.parametrize("name", ["mask", "prompt", "file"])
def test_a_file_is_refused_under_its_fields_name(service: Service, name: str) -> None:
    fields = {"prompt": "x"} if name != "prompt" else {}
    files = {name: ("a.png", b"\x89PNG", "image/png")}
    response = service.http.post("/v1/videos", data=fields, files=files)
    check_refused(service, response, 400, name, "does not take a file")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"steps": "many"}, "steps"),
        ({"steps": "2.5"}, "steps"),
        ({"steps": ""}, "steps"),
        ({"steps": "101"}, "steps"),
        ({"seed": "-1"}, "seed"),
        ({"sparsity": "nan"}, "sparsity"),
        ({"guidance_scale": "inf"}, "guidance_scale"),
        ({"fps": "0"}, "fps"),
        ({"colour": "red"}, "colour"),
    ],
    ids=str,
)
def test_a_bad_field_of_a_form_is_named(service: Service, fields: dict[str, str], param: str) -> None:
    form = {name: (None, value) for name, value in {"prompt": "x", **fields}.items()}
    check_refused(service, service.http.post("/videos", files=form), 400, param, "allowed: ")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"prompt=x"),
        ("multipart/form-data; boundary=abc", b"no parts"),
        ("multipart/form-data; boundary=abc", b'--abc\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx'),
        ("multipart/form-data; boundary=abc", b"--abc\r\nContent-Disposition: form-data\r\n\r\nx\r\n--abc--\r\n"),
        ("multipart/form-data; boundary=abc", b"--abc\r\nA: b\r\n\r\nx\r\n--abc--\r\n"),
    ],
)
def test_a_malformed_form_is_refused(service: Service, content_type: str, body: bytes) -> None:
    response = service.http.post("/videos", content=body, headers={"Content-Type": content_type})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert service.messages() == 0


def test_too_many_fields_of_a_form_are_refused(service: Service) -> None:
    form = [(f"field{n}", (None, "x")) for n in range(1000)]
    check_refused(service, service.http.post("/videos", files=form), 400, None, "fields")


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json; charset=utf-8"},
        {"Content-Type": "Application/JSON ;x=y"},
        {"Content-Type": "application/json", "Content-Encoding": "Identity"},
        {"Content-Type": 'Multipart/Form-Data; charset="UTF8"; boundary=b'},
    ],
    ids=str,
)
def test_a_body_is_read_by_its_type_however_that_is_written(service: Service, headers: dict[str, str]) -> None:
    form = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n--b--\r\n'
    body = form if "boundary" in headers["Content-Type"] else b'{"prompt": "x"}'
    assert service.http.post("/videos", content=body, headers=headers).json()["prompt"] == "x"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "image/png", ""])
def test_another_content_type_is_refused(service: Service, content_type: str) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = service.http.post("/videos", content=b'{"prompt": "x"}', headers=headers)
    allowed = "allowed: application/json, multipart/form-data"
    check_refused(service, response, 415, None, f"Content-Type {content_type or '(none)'} is not supported; {allowed}")


def test_a_body_over_the_limit_is_refused_before_it_is_read(service: Service) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as raw:
        head = (
            b"POST /videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1073741824"
            b"\r\nAuthorization: Bearer " + service.token.encode()
        )
        raw.sendall(head + b"\r\n\r\n")  # and no body at all
        assert raw.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(service: Service) -> None:
    def chunks() -> Any:
        yield b'{"prompt": "'
        for _ in range(5):
            yield b"x" * 250_000

    response = service.http.post("/videos", content=chunks(), headers={"Content-Type": "application/json"})
    check_refused(service, response, 413, None, "1048576 bytes")
    assert service.http.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"limit": ""}, "limit"),
        ({"order": "random"}, "order"),
        ({"after": "video_1"}, "after"),
        ({"after": ""}, "after"),
        ({"after": "video_" + "0" * 32}, "after"),
        ({"after": "video_" + "f" * 32}, "after"),
        ({"after": "+"}, "after"),
    ],
    ids=str,
)
def test_a_bad_page_is_refused(service: Service, query: dict[str, Any], param: str) -> None:
    check_refused(service, service.http.get("/v1/videos", params=query), 400, param)


@pytest.mark.parametrize(
    "video_id", ["video_" + "0" * 32, "nonsense", "video_", "..%2f..%2fetc", "%00", "é", "x" * 5000]
)
def test_an_unknown_id_is_not_found(service: Service, video_id: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content"), ("HEAD", "/content"), ("POST", "/cancel")):
        response = service.http.request(method, f"/videos/{video_id}{path}")
        assert response.status_code == 404
        assert method == "HEAD" or response.json()["error"]["code"] in ("video_not_found", "not_found")


def test_an_unknown_variant_is_refused(service: Service) -> None:
    video_id = service.completed()
    response = service.http.get(f"/videos/{video_id}/content", params={"variant": "audio"})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "variant")
    assert all(name in error["message"] for name in ("video", "thumbnail", "spritesheet"))


def test_an_unknown_model_is_not_found(service: Service) -> None:
    check_refused(service, service.http.get("/models/other"), 404, "model_id", "allowed: demo")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/videos/", 404, "not_found"),
        ("GET", "/v2/videos", 404, "not_found"),
        ("PUT", "/videos", 405, "method_not_allowed"),
        ("DELETE", "/v1/videos", 405, "method_not_allowed"),
        ("PATCH", "/videos/x", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
    ],
)
def test_the_frameworks_own_errors_have_the_same_shape(
    service: Service, method: str, path: str, status: int, code: str
) -> None:
    response = service.http.request(method, path)
    check_refused(service, response, status, None)
    assert response.json()["error"]["code"] == code
    allow = {"/videos": "GET, POST", "/v1/videos": "GET, POST", "/videos/x": "GET, DELETE", "/healthz": "GET, HEAD"}
    assert response.headers.get("allow") == (allow[path] if status == 405 else None)


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/healthz", "/readyz"])
def test_probes_and_the_page_answer_head(service: Service, path: str) -> None:
    whole, head = service.http.get(path), service.http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))


LISTS = "after, limit, order and metadata[KEY]=VALUE"


@pytest.mark.parametrize(
    ("path", "query", "allowed"),
    [
        ("/videos", "status=completed", LISTS),
        ("/videos", "limit=1&limit=2", LISTS),
        ("/videos", "metadata=x", LISTS),
        ("/videos", "metadata[a]=1&metadata[a]=2", LISTS),
        ("/videos/video_0/link", "expires=60", "variant, expires_in, via"),
        ("/usage", "day=7", "days"),
    ],
)
def test_a_parameter_that_would_be_passed_over_is_refused(
    service: Service, path: str, query: str, allowed: str
) -> None:
    name = query.split("=", maxsplit=1)[0]
    check_refused(service, service.http.get(f"{path}?{query}"), 400, name, f"allowed: {allowed}")


def test_a_compressed_body_is_refused_by_its_coding(service: Service) -> None:
    body = gzip.compress(b'{"prompt": "x"}')
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    response = service.http.post("/videos", content=body, headers=headers)
    check_refused(service, response, 415, None, "Content-Encoding gzip")
    assert response.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("metadata", ["a=1,b=2,a=3", '{"a": "1", "a": "2"}'])
def test_metadata_in_a_text_has_each_key_once(service: Service, metadata: str) -> None:
    response = service.http.post("/videos", files={"prompt": (None, "x"), "metadata": (None, metadata)})
    check_refused(service, response, 400, "metadata", "'a': given more than once")


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_bad_idempotency_key_is_refused(service: Service, key: str) -> None:
    response = service.http.post("/videos", json={"prompt": "x"}, headers={"Idempotency-Key": key})
    check_refused(service, response, 400, "Idempotency-Key", "allowed: 1 to 255")
