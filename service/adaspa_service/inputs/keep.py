"""Images, videos and sounds of a request: had, fitted, and stored in a folder that its jobs share."""

import re
import secrets
import shutil
import ssl
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import anyio
import httpx
from adaspa_api.words import Fit, Kind, Role
from adaspa_jobs.job import Input
from adaspa_jobs.settings import Settings
from adaspa_jobs.storage import ObjectStorage, inputs_prefix

from adaspa_service.inputs import clips, sounds
from adaspa_service.inputs.clips import ClipLimits, Tail, write_tail
from adaspa_service.inputs.fetch import fetch
from adaspa_service.inputs.images import detailed, fitted, opened, upright_size
from adaspa_service.inputs.sounds import write_beginning
from adaspa_service.inputs.source import InputRefused, Source, Upload, uploaded
from adaspa_service.webhooks.addresses import Addresses, Resolve

FOLDER = re.compile(r"[0-9a-f]{32}")
AT_A_TIME = 1
"""Images, videos or sounds that are decoded: one may take some hundred MB."""
Sizes = Callable[[int, int], tuple[int, int]]
"""Function from the first input's width and height to the video's."""


class Used(NamedTuple):
    """Part of an input that a job uses.

    Args:
        tail: of a video.
        seconds: of a sound, from its beginning.
    """

    tail: Tail
    seconds: float


class Frame(NamedTuple):
    """Frame of the video, for an image or a video that becomes part of it.

    Args:
        size_of: chooses its size.
        bars: colour of the bars beside one of another shape; None covers the frame.
    """

    size_of: Sizes
    bars: str | None


class Written(NamedTuple):
    """An input's file, and what a client is told of it."""

    file: Path
    content_type: str
    width: int | None = None
    height: int | None = None
    frames: int | None = 1
    seconds: float | None = None


class BadInput(Exception):
    """One of them cannot be taken."""

    def __init__(self, role: Role, why: InputRefused) -> None:
        super().__init__(str(why))
        self.role, self.why = role, why


class Inputs:
    """Takes images, videos and sounds in.

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
        self, sources: Mapping[Role, Source], owner: str, size_of: Sizes, fit: Fit, used: Used
    ) -> tuple[Input, ...]:
        """Store them as the model is to get them; in one new folder, all of them or none.

        Args:
            sources: what the request gave.
            owner: whose request it is.
            size_of: chooses the video's size.
            fit: how one of another shape gets it.
            used: how much of a video or a sound.

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
        return await anyio.to_thread.run_sync(self._store, given, size_of, fit, used, limiter=self._decoding)

    async def _fetched(self, url: str, kind: Kind, owner: str) -> Upload:
        most = self._settings.input_bytes[kind]
        return uploaded(await fetch(url, kind, self._tls, self._addresses, owner=owner, limit=most))

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()  # reading the authorities takes its time

    def _store(self, given: Mapping[Role, Upload], size_of: Sizes, fit: Fit, used: Used) -> tuple[Input, ...]:
        folder = secrets.token_hex(16)
        with TemporaryDirectory(prefix="adaspa-inputs-") as scratch:
            files: dict[Role, Written] = {}
            size: tuple[int, int] | None = None

            def chosen(width: int, height: int) -> tuple[int, int]:
                nonlocal size
                size = size or size_of(width, height)
                return size

            frame = Frame(chosen, "black" if fit is Fit.contain else None)
            for role, upload in given.items():
                try:
                    files[role] = self._written(role, upload, Path(scratch, role), frame, used)
                except InputRefused as error:
                    raise BadInput(role, error) from error
            if self._note is not None:
                self._note(folder)
            try:
                return tuple(self._put(folder, role, written) for role, written in files.items())
            except BaseException:
                self._storage.delete_prefix(inputs_prefix(folder))
                raise

    def _written(self, role: Role, upload: Upload, path: Path, frame: Frame, used: Used) -> Written:
        if role.kind is Kind.image:
            return self._write_image(upload, path.with_suffix(".png"), frame if role.is_in_frame else None)
        source = path.with_suffix(".sent")
        upload.file.seek(0)
        with source.open("wb") as copy:
            shutil.copyfileobj(upload.file, copy)
        if role.kind is Kind.audio:
            file = path.with_suffix(".flac")
            return Written(file, sounds.CONTENT_TYPE, frames=None, seconds=write_beginning(source, file, used.seconds))
        file = path.with_suffix(".webm")
        limits = ClipLimits(self._settings.video_pixels, self._settings.video_frames)
        size = write_tail(source, file, used.tail, limits, frame.size_of, contain=frame.bars is not None)
        return Written(file, clips.CONTENT_TYPE, *size, frames=used.tail.frames)

    def _write_image(self, upload: Upload, file: Path, frame: Frame | None) -> Written:
        with opened(upload.file, self._settings.image_pixels) as image:
            size = upright_size(image)
            size = frame.size_of(*size) if frame else detailed(*size)
            fitted(image, size, frame.bars if frame else None).save(file)
        return Written(file, "image/png", *size)

    def _put(self, folder: str, role: Role, written: Written) -> Input:
        file = written.file
        stored = self._storage.put_file(f"{inputs_prefix(folder)}{file.name}", file, written.content_type)
        return Input.model_validate({**written._asdict(), **stored.model_dump(), "role": role})

    def close(self) -> None:
        """Look up no more hosts."""
        self._addresses.close()
