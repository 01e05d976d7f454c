"""Object storage on a local folder and in memory."""

import asyncio
import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import obstore
import pytest
from adaspa_jobs.storage import ObjectMissing, ObjectStorage, StorageUnavailable
from http_server import answering
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


@pytest.mark.parametrize(("number", "kept"), [(errno.EINVAL, True), (errno.EIO, False), (errno.ENOSPC, False)])
def test_a_disk_that_cannot_be_synced_has_not_stored_the_file_unless_it_never_syncs_folders(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, number: int, kept: bool
) -> None:
    fsync = os.fsync

    def fail(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().is_dir():
            raise OSError(number, "as it was told")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    storage = ObjectStorage(str(tmp_path / "objects"))
    if kept:
        assert storage.put_file("videos/x/1/video.mp4", file, "video/mp4").bytes == len(CONTENT)
    else:
        with pytest.raises(StorageUnavailable, match="as it was told"):
            storage.put_file("videos/x/1/video.mp4", file, "video/mp4")
    opened = [os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()]
    assert not [path for path in opened if path.startswith(str(tmp_path))], "a folder stays open"


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("{0}/a b", "a b"),
        ("{0}/a%20b", "a%20b"),
        ("file://{0}/a%20b", "a b"),
        ("file://localhost{0}/a", "a"),
        ("relative", "relative"),
        ("./a/../b", "b"),
        ("~/own", "own"),
    ],
)
def test_an_address_of_a_folder_is_that_folder(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, url: str, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    ObjectStorage(url.format(tmp_path)).put_file("key", file, "video/mp4")
    assert (tmp_path / folder / "key").read_bytes() == CONTENT


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


def test_a_check_leaves_nothing(storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.check()
    asyncio.run(storage.ping())
    assert storage.keys("") == []
    keys, asked = storage.keys, list[str]()

    def refuse(prefix: str) -> list[str]:
        asked.append(prefix)
        assert keys(prefix), "what is to be listed is there"
        raise StorageUnavailable("listing denied")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "keys", refuse)
        with pytest.raises(StorageUnavailable, match="listing denied; removing objects requires permission to list"):
            storage.check()
    assert asked and storage.keys("") == []


def test_what_breaks_off_while_it_is_read_is_storage_that_is_away(
    storage: ObjectStorage, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put_file("a", file, "video/mp4")

    class Cut:
        def stream(self, **_: int) -> "Cut":
            return self

        def __iter__(self) -> Iterator[bytes]:
            yield b"some"
            raise GenericError("connection reset")

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for chunk in self:
                yield chunk

    async def get_async(*_: Any, **__: Any) -> Cut:
        return Cut()

    monkeypatch.setattr(obstore, "get", lambda *_, **__: Cut())
    monkeypatch.setattr(obstore, "get_async", get_async)
    chunks = storage.read_range("a", 0, 9)
    assert next(chunks) == b"some"
    with pytest.raises(StorageUnavailable, match="connection reset"):
        next(chunks)

    async def read() -> None:
        parts = await storage.stream_range("a", 0, 9)
        assert await anext(parts) == b"some"
        with pytest.raises(StorageUnavailable, match="connection reset"):
            await anext(parts)

    asyncio.run(read())


def test_a_range_is_streamed_as_it_is_read_and_what_is_not_there_is_missing(storage: ObjectStorage, file: Path) -> None:
    storage.put_file("a", file, "video/mp4")

    async def read(key: str, start: int, end: int) -> bytes:
        return b"".join([chunk async for chunk in await storage.stream_range(key, start, end)])

    for start, end in ((0, 1), (0, len(CONTENT)), (1000, 700_000)):
        assert asyncio.run(read("a", start, end)) == CONTENT[start:end]
    asyncio.run(storage.find("a"))
    for ask in (read("nothing", 0, 1), storage.find("nothing")):
        with pytest.raises(ObjectMissing):
            asyncio.run(ask)


def test_a_storage_that_hangs_is_away(storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaspa_jobs.storage.ANSWER_SECONDS", 0.05)

    async def hang(*_: Any, **__: Any) -> None:
        await asyncio.sleep(600)

    monkeypatch.setattr(obstore, "head_async", hang)
    monkeypatch.setattr(obstore, "get_async", hang)
    for ask in (storage.find("a"), storage.ping(), storage.stream_range("a", 0, 1)):
        with pytest.raises(StorageUnavailable, match="it does not answer"):
            asyncio.run(ask)


def test_only_buckets_give_links_of_their_own(storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those are for reading, for a while, of one object."""
    assert storage.signed_url("videos/x", 60) is None
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "aHVudGVyMg==")
    for url, expires in (("s3://bucket/prefix", "X-Amz-Expires=60"), ("az://container/prefix", "sp=r")):
        signed = ObjectStorage(url).signed_url("videos/x.mp4", 60)
        assert signed is not None and "/prefix/videos/x.mp4?" in signed and expires in signed, signed
        assert "hunter2" not in signed


def test_an_object_is_deleted_once_and_again(storage: ObjectStorage) -> None:
    assert storage.create("a", b"first") and not storage.create("a", b"second")
    assert storage.read("a") == b"first" and storage.head("a")[0] == 5
    (entry,) = storage.entries("")
    assert (entry.key, entry.bytes) == ("a", 5) and abs(entry.written_at - time.time()) < 60
    for _ in range(2):
        storage.delete("a")
    with pytest.raises(ObjectMissing):
        storage.read("a")


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


def test_no_folder_stays_of_what_was_never_finished(tmp_path: Path) -> None:
    objects = tmp_path / "objects"
    storage = ObjectStorage(str(objects))
    for prefix, but in (("videos/x/", False), ("videos/", False), ("videos/x/", True)):
        for name in ("1/video.mp4#1", "2/deep/er/video.mp4#12", "2/video.mp4#3"):
            (objects / "videos/x" / name).parent.mkdir(parents=True, exist_ok=True)
            (objects / "videos/x" / name).touch()
        (objects / "videos/x/3/empty").mkdir(parents=True)
        if but:
            storage.create("videos/x/2/deep/kept", b"content")
            (objects / "videos/x/1/video.mp4#one").touch()  # no name that a writer gives
            storage.delete_prefix(prefix, but={"videos/x/2/deep/kept", "videos/x/1/video.mp4#one"})
        else:
            storage.delete_prefix(prefix)
        left = {str(path.relative_to(objects)) for path in objects.rglob("*")} - {"videos"}
        kept = {"videos/x", "videos/x/1", "videos/x/2", "videos/x/2/deep"}
        assert left == (kept | {"videos/x/1/video.mp4#one", "videos/x/2/deep/kept"} if but else set()), prefix


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


@dataclass
class Bucket:
    """A server of one empty object, as ``s3://bucket``."""

    waits: dict[str, float] = field(default_factory=dict)
    """Seconds before it answers, by method."""
    failures: list[int] = field(default_factory=list)
    """Statuses of its next answers."""
    asked: list[str] = field(default_factory=list)
    """Methods of the requests so far."""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    made = Bucket()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            made.asked.append(self.command)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            over.wait(made.waits.get(self.command, 0))
            self.send_response(made.failures.pop(0) if made.failures else 200)
            self.send_header("ETag", '"1"')
            self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_PUT = do_HEAD = do_GET = answer

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    over = threading.Event()
    with answering(Handler) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_REGION", "eu-west-1")
        yield made
        over.set()


def test_a_bucket_that_fails_now_and_then_is_asked_again_and_one_that_refuses_is_not(bucket: Bucket) -> None:
    storage = ObjectStorage("s3://bucket")
    for ask, method in ((lambda: storage.create("a", b"x"), "PUT"), (lambda: storage.head("a"), "HEAD")):
        for failures in ([503], [500, 503], [429]):
            bucket.failures[:], bucket.asked[:] = failures, []
            ask()
            assert bucket.asked == [method] * (len(failures) + 1)
        for failures in ([403], [500] * 9):
            bucket.failures[:], bucket.asked[:] = failures, []
            with pytest.raises(StorageUnavailable):
                ask()
            assert len(bucket.asked) == (1 if failures == [403] else 4)


def test_an_upload_has_more_time_than_an_answer(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes back while it is sent."""
    monkeypatch.setattr("adaspa_jobs.storage.ANSWER_SECONDS", 0.3)
    storage = ObjectStorage("s3://bucket")
    bucket.waits |= {"PUT": 1.0, "GET": 600.0, "HEAD": 600.0}
    assert storage.create("a", b"x")
    for ask in (storage.read, storage.head):
        with pytest.raises(StorageUnavailable):
            ask("a")
