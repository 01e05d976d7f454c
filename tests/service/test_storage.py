"""Object storage on a local folder and in memory."""

import asyncio
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from adaspa_jobs.storage import ObjectMissing, ObjectStorage, StorageUnavailable
from obstore.exceptions import GenericError

CONTENT = bytes(range(256)) * 4096


@pytest.fixture(params=["folder", "file-url", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStorage:
    """Each kind of storage that needs no server."""
    urls = {"folder": str(tmp_path / "a" / "b"), "file-url": f"file://{tmp_path}/with%20space", "memory": "memory:///"}
    return ObjectStorage(urls[request.param])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file to store."""
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


def test_a_file_is_stored_and_described(storage: ObjectStorage, file: Path) -> None:
    artifact = storage.put_file("videos/x/1/video.mp4", file, "video/mp4")
    assert (artifact.key, artifact.content_type, artifact.bytes) == ("videos/x/1/video.mp4", "video/mp4", len(CONTENT))
    assert artifact.sha256 == hashlib.sha256(CONTENT).hexdigest()
    size, etag = storage.head(artifact.key)
    assert size == len(CONTENT) and etag
    assert file.exists()


def test_a_stored_file_is_on_the_disk_with_the_folders_that_lead_to_it(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, synced, fsync = tmp_path / "objects", list[Path](), os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    ObjectStorage(str(objects)).put_file("videos/x/1/video.mp4", file, "video/mp4")
    video = objects / "videos" / "x" / "1" / "video.mp4"
    assert synced == [video, *video.parents[:4]] and synced[-1] == objects


@pytest.mark.parametrize("left", [0, 1000])
def test_a_storage_that_keeps_nothing_or_a_part_has_not_stored_the_file(
    storage: ObjectStorage, file: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    put = obstore.put

    def lose(store: Any, key: str, *rest: Any, **options: Any) -> Any:
        answer = put(store, key, *rest, **options)
        obstore.delete(store, key)
        if left:
            put(store, key, CONTENT[:left])
        return answer

    monkeypatch.setattr(obstore, "put", lose)
    with pytest.raises(StorageUnavailable, match=f"kept only {left} of {len(CONTENT)} bytes"):
        storage.put_file("videos/x/1/video.mp4", file, "video/mp4")


@pytest.mark.parametrize(
    ("start", "end"), [(0, 1), (0, len(CONTENT)), (1000, 700_000), (len(CONTENT) - 1, len(CONTENT))]
)
def test_a_range_comes_in_chunks(storage: ObjectStorage, file: Path, start: int, end: int) -> None:
    storage.put_file("a", file, "video/mp4")
    assert b"".join(storage.read_range("a", start, end)) == CONTENT[start:end]


def test_what_is_not_there_is_missing(storage: ObjectStorage) -> None:
    with pytest.raises(ObjectMissing):
        storage.head("nothing")
    with pytest.raises(ObjectMissing):
        storage.read_range("nothing", 0, 1)  # at the call, before anything is read


def test_a_prefix_is_removed_with_all_below_it_and_nothing_else(storage: ObjectStorage, file: Path) -> None:
    for key in ("videos/x/1/a", "videos/x/2/b", "videos/xy/1/c", "videos/y/1/d"):
        storage.put_file(key, file, "video/mp4")
    storage.delete_prefix("videos/x/")
    for key in ("videos/x/1/a", "videos/x/2/b"):
        with pytest.raises(ObjectMissing):
            storage.head(key)
    for key in ("videos/xy/1/c", "videos/y/1/d"):
        storage.head(key)
    storage.delete_prefix("videos/x/")


def test_a_prefix_with_more_objects_than_a_page_of_a_listing_is_removed_whole(storage: ObjectStorage) -> None:
    for number in range(120):
        storage.create(f"checkpoints/x/{number}", b"")
    assert len(storage.keys("checkpoints/x/")) == 120
    storage.delete_prefix("checkpoints/x/")
    assert storage.keys("checkpoints/x/") == []


def test_a_check_leaves_nothing(storage: ObjectStorage) -> None:
    storage.check()
    asyncio.run(storage.ping())


def test_a_local_folder_shows_whole_files_only(tmp_path: Path, file: Path) -> None:
    storage = ObjectStorage(str(tmp_path / "objects"))
    storage.put_file("videos/x/1/video.mp4", file, "video/mp4")
    storage.check()
    written = [path.relative_to(tmp_path / "objects") for path in (tmp_path / "objects").rglob("*") if path.is_file()]
    assert written == [Path("videos/x/1/video.mp4")]
    storage.delete_prefix("videos/x/")
    assert list((tmp_path / "objects").iterdir()) == []


WRITER = """
import sys, time
import obstore
from obstore.store import LocalStore

def content():
    yield bytes(20 * 1024 * 1024)
    print("writing", flush=True)
    time.sleep(60)

obstore.put(LocalStore(sys.argv[1]), sys.argv[2], content())
"""


@pytest.fixture
def kill_while_writing(tmp_path: Path) -> Callable[[str], Path]:
    """Kills a process that writes an object into the folder ``objects``; gives the file that it leaves there."""

    def kill(key: str) -> Path:
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path / "objects", key], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == b"writing\n"
            writer.kill()
        left = tmp_path / "objects" / f"{key}#1"
        assert left.exists()
        return left

    return kill


def test_what_a_killed_writer_left_is_removed_with_its_prefix(
    tmp_path: Path, file: Path, kill_while_writing: Callable[[str], Path]
) -> None:
    storage = ObjectStorage(str(tmp_path / "objects"))
    storage.put_file("videos/x/2/video.mp4", file, "video/mp4")
    left, other = kill_while_writing("videos/x/1/video.mp4"), kill_while_writing("videos/xy/1/video.mp4")
    assert storage.keys("videos/") == ["videos/x/2/video.mp4"], "it is not shown"
    storage.delete_prefix("videos/x/1/")
    assert not left.parent.exists()
    storage.head("videos/x/2/video.mp4")
    storage.delete_prefix("videos/x/")
    assert not left.parents[1].exists()
    assert other.exists()


def test_what_is_being_written_stays(tmp_path: Path, kill_while_writing: Callable[[str], Path]) -> None:
    storage = ObjectStorage(str(tmp_path / "objects"))
    left, writing = (kill_while_writing(f"checkpoints/{name}/000001-000008") for name in "xy")
    storage.create("checkpoints/z/000001-000008", b"latents")
    an_hour_ago = time.time() - 3600
    os.utime(left, (an_hour_ago, an_hour_ago))
    storage.remove_unfinished("checkpoints/", written_before=time.time() - 1800)
    assert not left.parent.exists() and writing.exists()
    storage.remove_unfinished("checkpoints/")
    assert not writing.parent.exists()
    assert storage.keys("") == ["checkpoints/z/000001-000008"]


def test_nothing_outside_the_folder_is_removed(tmp_path: Path) -> None:
    storage = ObjectStorage(str(tmp_path / "objects"))
    outside = tmp_path / "outside" / "1" / "video.mp4#1"
    outside.parent.mkdir(parents=True)
    outside.write_bytes(CONTENT)
    (tmp_path / "objects" / "videos" / "y").mkdir(parents=True)
    for link in ("linked", "videos/x", "videos/y/1"):
        (tmp_path / "objects" / link).symlink_to(tmp_path / "outside")
    for prefix in ("linked/", "linked/1/", "videos/x/", "videos/", "../outside/", str(tmp_path / "outside")):
        storage.remove_unfinished(prefix)
    assert outside.exists()
    storage.remove_unfinished("")
    assert (tmp_path / "objects").is_dir(), "the folder itself stays"


def test_keys_cannot_lead_out_of_the_folder(tmp_path: Path, file: Path) -> None:
    storage = ObjectStorage(str(tmp_path / "objects"))
    for key in ("../source", "videos/../../source", "/../source"):
        with pytest.raises(StorageUnavailable):
            storage.put_file(key, file, "video/mp4")
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["/dev/null/objects", "s3://", "nonsense://x", "memory", "{file}/objects"])
def test_storage_that_cannot_be_used_says_so_in_one_line(
    url: str, file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    url = url.format(file=file)
    if url == "memory":
        (tmp_path / "memory").write_text("a file where a folder is wanted")
    with pytest.raises(StorageUnavailable) as caught:
        ObjectStorage(url).check()
    assert url in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "file://data/objects",
        "file:data",
        "s3:bucket/prefix",
        "s3:///prefix",
        "s3://bucket/prefix?region=eu-west-1",
        "gs:bucket",
        "https://example.com/prefix",
    ],
)
def test_a_slip_in_the_address_is_no_other_place(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageUnavailable, match="allowed: a folder, file:///FOLDER, s3://BUCKET/PREFIX"):
        ObjectStorage(url)
    assert not list(tmp_path.iterdir())


def test_an_s3_server_that_is_away_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(StorageUnavailable, match="s3://bucket/prefix") as caught:
        ObjectStorage("s3://bucket/prefix").check()
    assert "\n" not in str(caught.value)


def test_a_bucket_without_credentials_is_said_to_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    asked = "Error performing PUT http://169.254.169.254/latest/api/token in 1s - HTTP error: connection refused"

    def put(*_: Any, **__: Any) -> None:
        raise GenericError(f"Generic S3 error: {asked}\n\nDebug source: ...")

    monkeypatch.setattr(obstore, "put", put)  # not asked for: what answers there is the machine's own matter
    with pytest.raises(StorageUnavailable, match=r"storage s3://videos: the environment has no credentials, and .*PUT"):
        ObjectStorage("s3://videos").check()


def test_a_failure_without_words_is_said_by_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    def put(*_: Any, **__: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr(obstore, "put", put)
    with pytest.raises(StorageUnavailable, match="storage s3://videos: TimeoutError"):
        ObjectStorage("s3://videos").check()
