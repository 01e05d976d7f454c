"""A finished video's files over HTTP: ranges, conditions, headers."""

import hashlib
import http.client
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from adaspa_jobs.settings import Settings
from adaspa_service.gateway.ranges import select
from claiming import VIDEO as VIDEO_OF_ANOTHER
from running_gateway import FILES, REPORT, Service

VIDEO = FILES["video"][2]
SIZE = len(VIDEO)


@pytest.mark.parametrize("variant", FILES)
def test_each_file_comes_whole_with_its_headers(service: Service, variant: str) -> None:
    video_id = service.completed()
    response = service.http.get(f"/v1/videos/{video_id}/content", params={"variant": variant})
    name, content_type, content = FILES[variant]
    assert (response.status_code, response.content) == (200, content)
    assert response.headers["content-type"] == content_type
    assert response.headers["content-length"] == str(len(content))
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["etag"] == f'"{hashlib.sha256(content).hexdigest()}"'
    assert response.headers["content-disposition"] == f'inline; filename="{video_id}{Path(name).suffix}"'


def test_the_video_is_what_comes_by_default(service: Service) -> None:
    assert service.http.get(f"/videos/{service.completed()}/content").content == VIDEO


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=100-", 100, SIZE),
        ("bytes=5000-5999", 5000, 6000),
        ("bytes=-1", SIZE - 1, SIZE),
        ("bytes=-500", SIZE - 500, SIZE),
        (f"bytes=-{10 * SIZE}", 0, SIZE),
        (f"bytes={SIZE - 1}-{SIZE - 1}", SIZE - 1, SIZE),
        (f"bytes=0-{SIZE + 100}", 0, SIZE),
        ("bytes=10-" + "9" * 30, 10, SIZE),
    ],
)
def test_one_range_comes_alone(service: Service, header: str, start: int, end: int) -> None:
    path = f"/videos/{service.completed()}/content"
    response = service.http.get(path, headers={"Range": header})
    assert (response.status_code, response.content) == (206, VIDEO[start:end])
    assert response.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert response.headers["content-length"] == str(end - start)
    assert response.headers["etag"] == service.http.get(path).headers["etag"]


@pytest.mark.parametrize("header", [f"bytes={SIZE}-", f"bytes={SIZE + 5}-{SIZE + 9}", "bytes=-0", f"bytes={'9' * 30}-"])
def test_a_range_outside_the_file_is_refused(service: Service, header: str) -> None:
    response = service.http.get(f"/videos/{service.completed()}/content", headers={"Range": header})
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{SIZE}"
    assert response.json()["error"]["code"] == "range_not_satisfiable"


@pytest.mark.parametrize(
    "header",
    [
        "bytes=0-1,5-6",
        "bytes=9-3",
        "bytes=-",
        "bytes=a-b",
        "bytes=1",
        "lines=0-1",
        "",
        "bytes=--1",
        "bytes=1-2-3",
        "bytes=٣-٤",
    ],
)
def test_what_is_no_single_range_gets_the_whole_file(header: str) -> None:
    selected = select({"range": header}, SIZE, '"tag"')
    assert (selected.status, selected.start, selected.end) == (200, 0, SIZE)


def test_a_client_that_has_the_file_gets_nothing(service: Service) -> None:
    path = f"/videos/{service.completed()}/content"
    etag = service.http.get(path).headers["etag"]
    for condition in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        response = service.http.get(path, headers={"If-None-Match": condition, "Range": "bytes=0-9"})
        assert (response.status_code, response.content) == (304, b"")
        whole = service.http.get(path).headers  # of these a 304 has what caches keep
        for name in ("etag", "cache-control"):
            assert response.headers[name] == whole[name]
        assert service.http.head(path, headers={"If-None-Match": condition}).status_code == 304
    assert service.http.get(path, headers={"If-None-Match": '"other"'}).content == VIDEO


def test_a_client_that_wants_another_file_gets_none(service: Service) -> None:
    path = f"/videos/{service.completed()}/content"
    etag = service.http.get(path).headers["etag"]
    for condition in ('"other"', f"W/{etag}", ""):
        headers = {"If-Match": condition, "Range": "bytes=0-9"}
        response = service.http.get(path, headers=headers)
        assert (response.status_code, response.json()["error"]["param"]) == (412, "If-Match")
        assert service.http.head(path, headers=headers).status_code == 412
    for condition in (etag, f'"other", {etag}', "*"):
        response = service.http.get(path, headers={"If-Match": condition, "Range": "Bytes=0-9"})
        assert (response.status_code, response.content) == (206, VIDEO[:10])


TAG = '"tag"'
MATCHES = {None: True, "*": True, TAG: True, f'"other" , {TAG}': True, '"other"': False, f"W/{TAG}": False, "": False}
NONE_MATCHES = {None: False, "*": True, TAG: True, f"W/{TAG}": True, f'"other", {TAG}': True, '"other"': False}
RANGES = {None: (200, 0, 50), "bytes=5-9": (206, 5, 10), "bytes=-7": (206, 43, 50), "bytes=50-": (416, 0, 0)}
IF_RANGES = {None: True, TAG: True, '"other"': False, f"W/{TAG}": False}


def test_conditions_are_looked_at_in_the_order_of_rfc_9110() -> None:
    """Section 13.2.2: If-Match, If-None-Match, and the range only then, if If-Range lets it."""
    names = ("if-match", "if-none-match", "if-range", "range")
    for given in product(MATCHES, NONE_MATCHES, IF_RANGES, RANGES):
        match, none_match, if_range, asked = given
        if not MATCHES[match]:
            wanted = (412, 0, 0)
        elif NONE_MATCHES[none_match]:
            wanted = (304, 0, 0)
        else:
            wanted = RANGES[asked if IF_RANGES[if_range] else None]
        headers = {name: value for name, value in zip(names, given, strict=True) if value is not None}
        found = select(headers, 50, TAG)
        assert (found.status, found.start, found.end) == wanted, headers


def test_a_condition_in_several_lines_is_one_list(service: Service) -> None:
    path = f"/videos/{service.completed()}/content"
    etag = service.http.get(path).headers["etag"]
    for name, status in (("If-None-Match", 304), ("If-Match", 200)):
        assert service.http.get(path, headers=[(name, '"other"'), (name, etag)]).status_code == status
    ranges = [("Range", "bytes=0-1"), ("Range", "bytes=5-6")]
    assert service.http.get(path, headers=ranges).content == VIDEO, "several ranges"


def test_a_misspelt_variant_is_no_video(service: Service) -> None:
    path = f"/videos/{service.completed()}/content"
    for query in ("varient=thumbnail", "variant=thumbnail&variant=video", "expires=1"):
        response = service.http.get(f"{path}?{query}")
        assert (response.status_code, response.json()["error"]["code"]) == (400, "unknown_parameter")
    link = service.http.get(f"{path.removesuffix('content')}link").json()["url"]
    assert service.http.get(f"{link}&utm_source=mail").content == VIDEO, "others may add to a link"


@pytest.mark.parametrize(
    ("if_range", "status"),
    [(None, 200), ('"other"', 200), ("Tue, 24 Nov 2026 10:00:00 GMT", 200), ("{etag}", 206), ("W/{etag}", 200)],
)
def test_a_range_of_another_version_gets_the_whole_file(service: Service, if_range: str | None, status: int) -> None:
    path = f"/videos/{service.completed()}/content"
    etag = service.http.get(path).headers["etag"]
    headers = {"If-Range": if_range.format(etag=etag), "Range": "bytes=0-9"} if if_range else {}
    response = service.http.get(path, headers=headers)
    assert (response.status_code, response.content) == (status, VIDEO[:10] if status == 206 else VIDEO)


def test_head_tells_of_the_whole_file_and_sends_none_of_it(service: Service) -> None:
    path = f"/videos/{service.completed()}/content"
    full = service.http.get(path)
    connection = http.client.HTTPConnection(service.url.removeprefix("http://"))
    connection.request("HEAD", path, headers={"Range": "bytes=0-9"})
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b"")
    for name in ("content-length", "content-type", "etag", "accept-ranges"):
        assert response.getheader(name) == full.headers[name]
    connection.close()


@pytest.mark.parametrize("begin", [False, True])
def test_a_job_that_has_not_ended_has_no_files(service: Service, begin: bool) -> None:
    video_id = service.create()["id"]
    if begin:
        service.claim(video_id)
    for variant in FILES:
        response = service.http.get(f"/videos/{video_id}/content", params={"variant": variant})
        assert (response.status_code, response.json()["error"]["code"]) == (409, "video_not_ready")
        assert "available once it is completed" in response.json()["error"]["message"]
    service.http.post(f"/videos/{video_id}/cancel")
    if begin:
        return
    response = service.http.get(f"/videos/{video_id}/content")
    assert (response.status_code, response.json()["error"]["code"]) == (409, "video_not_ready")
    assert "is cancelled; it has no files" in response.json()["error"]["message"], "and never will have"


def test_who_asks_for_a_file_that_there_never_will_be_is_told_which_there_are(service: Service) -> None:
    waits, lease = service.create()["id"], service.claim(service.create()["id"])
    service.store.complete(lease, {"thumbnail": VIDEO_OF_ANOTHER["video"]}, REPORT, {})
    for video_id, variants, told in (
        (lease.job.id, ("video", "spritesheet", "first_frame", "reference_audio"), "thumbnail"),
        (waits, ("first_frame", "last_frame", "reference_image"), "none"),
    ):
        for variant in variants:
            response = service.http.get(f"/videos/{video_id}/content", params={"variant": variant})
            error = response.json()["error"]
            assert (response.status_code, error["code"], error["param"]) == (404, "variant_not_found", "variant")
            assert error["message"] == f"variant: {variant} does not exist; allowed: {told}"


def test_a_file_that_storage_lost_is_not_found_and_logged(
    service: Service, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    video_id = service.completed()
    for path in Path(settings.storage_url).rglob("video.mp4"):
        path.unlink()
    for method in ("GET", "HEAD"):
        assert service.http.request(method, f"/videos/{video_id}/content").status_code == 404
    assert f"{video_id}: its video is missing from storage" in caplog.text
    assert service.http.get(f"/videos/{video_id}/content?variant=thumbnail").status_code == 200


def test_a_large_file_is_streamed_and_not_read_into_memory(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway takes chunks from storage only as fast as the client takes them from it."""
    size = 64 * 1024 * 1024
    path = f"/videos/{service.complete(service.claim(service.create()['id']), bytes(size)).id}/content"
    read: list[int] = []
    original = service.parts.storage.stream_range

    async def counted(*arguments: Any) -> Any:
        async def chunks() -> Any:
            async for chunk in await original(*arguments):
                read.append(len(chunk))
                yield chunk

        return chunks()

    monkeypatch.setattr(service.parts.storage, "stream_range", counted)
    with service.http.stream("GET", path) as response:
        assert next(response.iter_raw())
        assert max(read) <= 1024 * 1024 and sum(read) < size / 2
    monkeypatch.undo()
    assert len(service.http.get(path).content) == size
