"""Object storage by URL: a local folder, memory, S3, GCS or Azure."""

import asyncio
import errno
import hashlib
import math
import os
import re
import uuid
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import AzureStore, GCSStore, HTTPStore, LocalStore, MemoryStore, ObjectStore, S3Store, from_url

from adaspa_jobs.job import Artifact

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

CHUNK_BYTES = 256 * 1024
ANSWER_SECONDS = 10.0
"""A storage that sends nothing for so long, while something is asked of it or read from it, counts as away."""
UPLOAD_SECONDS = 300.0
"""An upload, or one part of a large file's, may take so long."""
VIDEOS = "videos/"
"""Key prefix of all videos."""
CHECKPOINTS = "checkpoints/"
"""Key prefix of all checkpoints; no object of a job that has ended belongs there."""
INPUTS = "inputs/"
"""Key prefix of the images that requests came with."""
PROBES = ".probe/"

BUCKETS = ("s3", "gs", "az")
"""Schemes of the addresses that begin with a bucket's name."""
ALLOWED = (
    "allowed: a folder, file:///FOLDER, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or memory:///"
)
METADATA_SERVICES = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
"""Addresses from which machines and containers of AWS, Azure and Google have their credentials."""
UNFINISHED = re.compile(r"#\d+$")
"""Names of the files that a local folder's writers have under way; no key may end so."""


def video_prefix(job_id: str) -> str:
    """Key prefix of the files that a job's attempts write."""
    return f"{VIDEOS}{job_id}/"


def attempt_prefix(job_id: str, token: str) -> str:
    """Key prefix of the files that one attempt writes."""
    return f"{video_prefix(job_id)}{token}/"


def checkpoint_prefix(job_id: str) -> str:
    """Key prefix of a job's checkpoints."""
    return f"{CHECKPOINTS}{job_id}/"


def inputs_prefix(folder: str) -> str:
    """Key prefix of the images of one request."""
    return f"{INPUTS}{folder}/"


class StorageUnavailable(Exception):
    """Storage cannot be reached, or refuses; the message is one line."""


class ObjectMissing(Exception):
    """There is no object of that key."""


class Stored(NamedTuple):
    """An object as a listing shows it."""

    key: str
    bytes: int
    written_at: float
    """Unix seconds, by the storage's clock."""


class ObjectStorage:
    """Object storage of the service's files. Objects appear under their key only once whole, local folders included.

    Args:
        url: a folder's path, or ``file:///``, ``memory:///`` (this process only), ``s3://bucket/prefix``, ``gs://``,
            ``az://``. Credentials and endpoint come from the environment, as each provider names them: for an
            S3-compatible server ``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``.

    Raises:
        StorageUnavailable: the URL means nothing, or the folder cannot be made.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        with self._reaching():
            self._store, self._uploads = _open(url)

    def put_file(self, key: str, path: Path, content_type: str) -> Artifact:
        """Store a file, in parts if it is large, and make sure that it is kept; an object of the same key is replaced.

        Raises StorageUnavailable.
        """
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        local = isinstance(self._store, LocalStore)  # which keeps no attributes; the record has the type anyway
        attributes = None if local else {"Content-Type": content_type}
        size = path.stat().st_size
        with self._reaching():
            obstore.put(self._uploads, key, path, attributes=attributes)
        try:
            with self._reaching():
                if isinstance(self._store, LocalStore):
                    _sync(Path(self._store.prefix or "/"), key)
                kept = obstore.head(self._store, key)["size"]
        except ObjectMissing:
            kept = 0
        if kept != size:  # no answer says so, only a look
            raise StorageUnavailable(f"storage {self.url}: {key}: kept only {kept} of {size} bytes")
        return Artifact(key=key, content_type=content_type, bytes=size, sha256=digest)

    def create(self, key: str, content: bytes) -> bool:
        """Store bytes under a new key; False if there is one, which stays as it is. Raises StorageUnavailable."""
        with self._reaching():
            try:
                obstore.put(self._uploads, key, content, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def read(self, key: str) -> bytes:
        """A whole object. Raises ObjectMissing, StorageUnavailable."""
        with self._reaching():
            return bytes(obstore.get(self._store, key).bytes())

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of all objects below ``prefix``. Raises StorageUnavailable."""
        return [stored.key for stored in self.entries(prefix)]

    def entries(self, prefix: str) -> list[Stored]:
        """All objects below ``prefix``. Raises StorageUnavailable."""
        with self._reaching():
            return [
                Stored(item["path"], item["size"], item["last_modified"].timestamp())
                for page in obstore.list(self._store, prefix)
                for item in page
            ]

    def head(self, key: str) -> tuple[int, str]:
        """Size in bytes and the store's own entity tag. Raises ObjectMissing, StorageUnavailable."""
        with self._reaching():
            meta = obstore.head(self._store, key)
        return meta["size"], meta["e_tag"] or ""

    def read_range(self, key: str, start: int, end: int) -> Iterator[bytes]:
        """Bytes ``start`` to ``end`` (exclusive) of an object, in chunks, never whole in memory.

        The object is opened by the call itself, so that an error comes before the first byte is sent.

        Raises:
            ObjectMissing, StorageUnavailable: at the call, or while reading.
        """
        with self._reaching():
            result = obstore.get(self._store, key, options={"range": (start, end)})

        def chunks() -> Iterator[bytes]:
            with self._reaching():
                for chunk in result.stream(min_chunk_size=CHUNK_BYTES):
                    yield bytes(chunk)

        return chunks()

    async def stream_range(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Open and read as ``read_range`` does, and hold up no thread: a storage may answer late."""
        async with self._answering():
            result = await obstore.get_async(self._store, key, options={"range": (start, end)})

        async def chunks() -> AsyncIterator[bytes]:
            with self._reaching():
                async for chunk in result.stream(min_chunk_size=CHUNK_BYTES):
                    yield bytes(chunk)

        return chunks()

    async def find(self, key: str) -> None:
        """Make sure that there is such an object, and hold up no thread. Raises ObjectMissing, StorageUnavailable."""
        async with self._answering():
            await obstore.head_async(self._store, key)

    def signed_url(self, key: str, seconds: int) -> str | None:
        """An address at which the store itself gives the object for a while; None for a store that cannot.

        One that is signed with passing credentials, such as a role's, ends with them.
        """
        if not isinstance(self._store, S3Store | GCSStore | AzureStore):
            return None
        with self._reaching():
            return obstore.sign(self._store, "GET", key, timedelta(seconds=seconds))

    def delete_prefix(self, prefix: str, but: Collection[str] = ()) -> None:
        """Remove every object below ``prefix``, and what was never finished there; none is no error.

        Args:
            prefix: of their keys.
            but: keys of objects that stay.

        Raises:
            StorageUnavailable.
        """
        for key in self.keys(prefix):
            if key not in but:
                self.delete(key)
        self.remove_unfinished(prefix)

    def remove_unfinished(self, prefix: str, written_before: float = math.inf) -> None:
        """Remove what processes left in a local folder that were killed while they wrote: no listing shows it.

        Elsewhere what is not finished is not there, or is the bucket's own matter.

        Args:
            prefix: below which it is looked for; links that lead out of the folder are not followed.
            written_before: Unix time before which it was last written to.

        Raises:
            StorageUnavailable.
        """
        if not isinstance(self._store, LocalStore):
            return
        root = Path(self._store.prefix or "/")
        with self._reaching():
            top = (root / prefix).resolve()
            if root not in top.parents:
                return
            for folder, _, names in os.walk(top, topdown=False, onerror=_raise_unless_gone):
                for path in (Path(folder, name) for name in names if UNFINISHED.search(name)):
                    with suppress(FileNotFoundError):  # another process removes the same, or has just finished it
                        if path.lstat().st_mtime < written_before:
                            path.unlink()
                with suppress(OSError):  # it is not empty
                    Path(folder).rmdir()

    def delete(self, key: str) -> None:
        """Remove an object; none is no error, another process may be removing the same. Raises StorageUnavailable."""
        with suppress(ObjectMissing), self._reaching():
            obstore.delete(self._store, key)

    def check(self) -> None:
        """Write a small object, list it, and remove it again: all three are needed. Raises StorageUnavailable."""
        key = f"{PROBES}{uuid.uuid4().hex}"
        with self._reaching():
            obstore.put(self._store, key, b"adaspa")
        try:
            self.keys(PROBES)
        except StorageUnavailable as error:
            raise StorageUnavailable(f"{error}; removing objects requires permission to list them") from error
        finally:
            self.delete(key)

    async def ping(self) -> None:
        """Ask for an object that is not there: costs little, writes nothing, and holds up no thread.

        Raises StorageUnavailable.
        """
        with suppress(ObjectMissing):
            await self.find(f"{PROBES}ping")

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        with self._reaching():
            try:
                async with asyncio.timeout(ANSWER_SECONDS):  # a folder on a server that hangs has no limit of its own
                    yield
            except TimeoutError:
                raise TimeoutError("it does not answer") from None

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise ObjectMissing(f"storage {self.url}: no such object") from error
        except (BaseError, OSError, ValueError, RuntimeError) as error:
            raise StorageUnavailable(f"storage {self.url}: {_said(error)}") from error


def _said(error: Exception) -> str:
    """Say in one line what is wrong. Without credentials, clients ask the cloud's own service for them."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    if any(address in line for address in METADATA_SERVICES):
        return f"the environment has no credentials, and the machine's metadata service gave none: {line}"
    return line


def _sync(root: Path, key: str) -> None:
    """Sync a local folder's file, and the folders that lead to it, to the disk.

    Otherwise its name may be written before its bytes, and neither before the system gets to it.
    """
    path = root / key
    for each in (path, *(folder for folder in path.parents if folder == root or root in folder.parents)):
        file = os.open(each, os.O_RDONLY)
        try:
            os.fsync(file)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some network file systems sync no folders
                raise
        finally:
            os.close(file)


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _open(url: str) -> tuple[ObjectStore, ObjectStore]:
    """Open the store, and the same for uploads: while one is sent, nothing comes back.

    Raises:
        ValueError: the address means no folder and no bucket.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and (parts.netloc not in ("", "localhost") or not parts.path.startswith("/")):
        raise ValueError(f"a folder's address needs its whole path; {ALLOWED}")
    if parts.scheme in BUCKETS and (not parts.netloc or parts.query or parts.fragment):
        raise ValueError(f"a bucket's address has its name, a prefix and nothing else; {ALLOWED}")
    if parts.scheme == "memory":
        return (MemoryStore(),) * 2
    if parts.scheme == "file" or "://" not in url:
        folder = Path(unquote(parts.path) if parts.scheme == "file" else url).expanduser().resolve()
        return (LocalStore(folder, automatic_cleanup=True, mkdir=True),) * 2
    # An endpoint is https unless it is written otherwise, and then it is meant.
    client: ClientConfig = {"connect_timeout": "5s", "timeout": timedelta(seconds=UPLOAD_SECONDS), "allow_http": True}
    answer = timedelta(seconds=ANSWER_SECONDS)
    downloads = from_url(
        url,
        client_options={**client, "read_timeout": answer},
        retry_config={"max_retries": 3, "retry_timeout": answer},  # so that one wait for an answer is the only one
    )
    if isinstance(downloads, HTTPStore):  # a web server lists nothing
        raise ValueError(f"it is the address of no bucket; {ALLOWED}")
    retries: RetryConfig = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
    return downloads, from_url(url, client_options=client, retry_config=retries)
