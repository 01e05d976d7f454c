"""Object storage on real S3-compatible servers."""

import asyncio
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from adaspa_jobs.settings import Settings
from adaspa_jobs.storage import ObjectMissing, ObjectStorage, StorageUnavailable
from running_gateway import serving
from s3_servers import BUCKET, KINDS, URL, S3Server, s3_server
from waiting import until


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server of each kind."""
    with s3_server(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture
def storage(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStorage]:
    """Storage on that server, configured as an operator does; nothing may be left in it."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    storage = ObjectStorage(URL)
    yield storage
    storage.delete_prefix("")
    assert server.objects() == []


def test_a_large_file_goes_up_in_parts_and_comes_back_by_range(
    storage: ObjectStorage, server: S3Server, tmp_path: Path
) -> None:
    content = os.urandom(12 * 1024 * 1024)
    (tmp_path / "video.mp4").write_bytes(content)
    artifact = storage.put_file("videos/x/1/video.mp4", tmp_path / "video.mp4", "video/mp4")
    assert (artifact.bytes, artifact.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    _, etag = storage.head(artifact.key)
    assert etag.strip('"').endswith("-3"), "the tag of an object of three parts"
    assert b"".join(storage.read_range(artifact.key, 5_000_000, 11_000_000)) == content[5_000_000:11_000_000]
    found = obstore.get(server.store(), f"service/{artifact.key}")
    assert found.attributes["Content-Type"] == "video/mp4"


def test_what_is_not_there_is_missing(storage: ObjectStorage) -> None:
    with pytest.raises(ObjectMissing):
        storage.head("nothing")
    with pytest.raises(ObjectMissing):
        storage.read("nothing")
    asyncio.run(storage.ping())
    storage.check()


def test_a_prefix_is_removed_with_all_below_it_and_nothing_else(storage: ObjectStorage) -> None:
    for key in ("videos/x/1/a", "videos/x/2/b", "videos/xy/1/c"):
        assert storage.create(key, b"content")
    storage.delete_prefix("videos/x/")
    assert storage.keys("videos/") == ["videos/xy/1/c"]
    storage.delete_prefix("videos/x/")


def test_a_new_key_is_written_once(storage: ObjectStorage, server: S3Server) -> None:
    if server.kind == "nanio":
        pytest.skip("nanio ignores conditions")
    assert storage.create("key", b"first")
    assert not storage.create("key", b"second")
    assert storage.read("key") == b"first"


def test_without_the_right_to_list_no_part_starts_and_a_deleted_video_goes_all_the_same(
    server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if server.kind == "nanio":
        pytest.skip("nanio knows no rights")
    objects = {"Effect": "Allow", "Action": ["s3:PutObject", "s3:GetObject", "s3:DeleteObject"], "Resource": "*"}
    with server.allowing(objects) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(
            StorageUnavailable, match=f"{URL}.*403 Forbidden.*; removing objects requires permission to list"
        ) as caught:
            ObjectStorage(URL).check()
        assert "\n" not in str(caught.value)
        with serving(
            settings.model_copy(update={"storage_url": URL}), tmp_path
        ) as service:  # its right was taken later
            video_id = service.completed()
            assert service.http.delete(f"/videos/{video_id}").status_code == 200
            until(lambda: "janitor: purge: storage" in caplog.text, "what may be left is reported")
            assert service.store.get(video_id) is not None, "and not forgotten"
    assert server.objects() == []


def test_the_rights_that_the_guide_gives_are_enough(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    if server.kind == "nanio":
        pytest.skip("nanio knows no rights")
    guide = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text()
    (policy,) = re.findall(r"^```json\n(.*?)^```$", guide, re.M | re.S)
    with server.allowing(*json.loads(policy.replace("my-videos", BUCKET))["Statement"]) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        storage = ObjectStorage(URL)
        storage.check()
        assert storage.create("videos/x/a", b"content") and storage.read("videos/x/a") == b"content"
        storage.delete_prefix("videos/x/")
        assert storage.keys("videos/x/") == []


def test_a_wrong_secret_is_refused(storage: ObjectStorage, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    if server.kind == "moto":
        pytest.skip("moto accepts any signature")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(StorageUnavailable, match=URL) as caught:
        ObjectStorage(URL).check()
    assert "\n" not in str(caught.value) and "another" not in str(caught.value)
