"""Images and videos of a request on their way into its jobs: had, fitted, and stored in a folder that these share."""

import re
import secrets
import shutil
import ssl
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import httpx
from adaspa_api.words import Fit, Kind, Role
from adaspa_jobs.job import Input
from adaspa_jobs.settings import Settings
from adaspa_jobs.storage import ObjectStorage, inputs_prefix

from adaspa_service.inputs.clips import CONTENT_TYPE, ClipLimits, Tail, write_tail
from adaspa_service.inputs.fetch import fetch
from adaspa_service.inputs.images import fitted, opened, upright_size
from adaspa_service.inputs.source import InputRefused, Source, Upload, uploaded
from adaspa_service.webhooks.addresses import Addresses, Resolve

FOLDER = re.compile(r"[0-9a-f]{32}")
AT_A_TIME = 1
"""Images or videos that are decoded: one may take some hundred MB."""
Sizes = Callable[[int, int], tuple[int, int]]
"""Function from the first input's width and height to the video's."""


class BadInput(Exception):
    """One of them cannot be taken."""

    def __init__(self, role: Role, why: InputRefused) -> None:
        super().__init__(str(why))
        self.role, self.why = role, why


class Inputs:
    """Takes images and videos in.

    Args:
        settings: how large one may be.
        storage: where they lie.
        resolve: how hosts of URLs are looked up.
        note: is told of a folder before anything lies in it, so that it is known if nothing comes of it.
    """

    def __init__(
        self, settings: Settings, storage: ObjectStorage, resolve: Resolve, note: Callable[[str], None] | None = None
    ) -> None:
        self._note = note
        self._storage, self._settings = storage, settings
        self._addresses = Addresses(settings.image_networks, resolve)
        self._decoding = anyio.CapacityLimiter(AT_A_TIME)

    async def take(
        self, sources: Mapping[Role, Source], owner: str, size_of: Sizes, fit: Fit, tail: Tail
    ) -> tuple[Input, ...]:
        """Store them as the model is to get them; in one new folder, all of them or none.

        Args:
            sources: what the request gave.
            owner: whose request it is.
            size_of: chooses the video's size.
            fit: how one of another shape gets it.
            tail: how much of a video.

        Raises:
            BadInput: nothing is stored.
            StorageUnavailable, StoreUnavailable.
        """
        given: dict[Role, Upload] = {}
        for role, source in sources.items():
            try:
                kind = role.kind
                given[role] = source if isinstance(source, Upload) else await self._fetched(source.url, kind, owner)
            except InputRefused as error:
                raise BadInput(role, error) from error
        return await anyio.to_thread.run_sync(self._store, given, size_of, fit, tail, limiter=self._decoding)

    async def _fetched(self, url: str, kind: Kind, owner: str) -> Upload:
        most = self._settings.input_bytes[kind]
        return uploaded(await fetch(url, kind, self._tls, self._addresses, owner=owner, limit=most))

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()  # reading the authorities takes its time

    def _store(self, given: Mapping[Role, Upload], size_of: Sizes, fit: Fit, tail: Tail) -> tuple[Input, ...]:
        folder = secrets.token_hex(16)
        with TemporaryDirectory(prefix="adaspa-inputs-") as scratch:
            files: dict[Role, Path] = {}
            size: tuple[int, int] | None = None

            def chosen(width: int, height: int) -> tuple[int, int]:
                return size or size_of(width, height)

            for role, upload in given.items():
                write = self._write_video if role.kind is Kind.video else self._write_image
                bars = "white" if not role.is_in_frame else "black" if fit is Fit.contain else None
                try:
                    files[role], size = write(upload, Path(scratch, role), chosen, tail, bars)
                except InputRefused as error:
                    raise BadInput(role, error) from error
            assert size is not None
            if self._note is not None:
                self._note(folder)
            try:
                return tuple(self._put(folder, role, path, size, tail) for role, path in files.items())
            except BaseException:
                self._storage.delete_prefix(inputs_prefix(folder))
                raise

    def _write_image(
        self, upload: Upload, path: Path, size_of: Sizes, _: Tail, bars: str | None
    ) -> tuple[Path, tuple[int, int]]:
        file = path.with_suffix(".png")
        with opened(upload.file, self._settings.image_pixels) as image:
            size = size_of(*upright_size(image))
            fitted(image, size, bars).save(file)
        return file, size

    def _write_video(
        self, upload: Upload, path: Path, size_of: Sizes, tail: Tail, bars: str | None
    ) -> tuple[Path, tuple[int, int]]:
        file, source = path.with_suffix(".webm"), path.with_suffix(".sent")
        upload.file.seek(0)
        with source.open("wb") as copy:
            shutil.copyfileobj(upload.file, copy)
        limits = ClipLimits(self._settings.video_pixels, self._settings.video_frames)
        return file, write_tail(source, file, tail, limits, size_of, contain=bars is not None)

    def _put(self, folder: str, role: Role, path: Path, size: tuple[int, int], tail: Tail) -> Input:
        of_video = role.kind is Kind.video
        kind, frames = (CONTENT_TYPE, tail.frames) if of_video else ("image/png", 1)
        stored = self._storage.put_file(f"{inputs_prefix(folder)}{path.name}", path, kind)
        return Input(**stored.model_dump(), role=role, width=size[0], height=size[1], frames=frames)

    def close(self) -> None:
        """Look up no more hosts."""
        self._addresses.close()
