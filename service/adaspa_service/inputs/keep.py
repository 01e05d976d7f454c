"""Images of a request on their way into its jobs: had, fitted, and stored in a folder that the jobs share."""

import re
import secrets
import ssl
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import httpx
from adaspa_api.words import Fit, Role
from adaspa_jobs.job import Input
from adaspa_jobs.settings import Settings
from adaspa_jobs.storage import ObjectStorage, inputs_prefix

from adaspa_service.inputs.fetch import fetch
from adaspa_service.inputs.images import fitted, opened, upright_size
from adaspa_service.inputs.source import ImageRefused, Source, Upload, uploaded
from adaspa_service.webhooks.addresses import Addresses, Resolve

FOLDER = re.compile(r"[0-9a-f]{32}")
AT_A_TIME = 1
"""Images that are decoded: one may take some hundred MB."""
Sizes = Callable[[int, int], tuple[int, int]]
"""Function from the first image's width and height to the video's."""


class BadImage(Exception):
    """One of the images cannot be taken."""

    def __init__(self, role: Role, why: ImageRefused) -> None:
        super().__init__(str(why))
        self.role, self.why = role, why


class Inputs:
    """Takes images in.

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
        self._storage, self._bytes, self._pixels = storage, settings.image_bytes, settings.image_pixels
        self._addresses = Addresses(settings.image_networks, resolve)
        self._decoding = anyio.CapacityLimiter(AT_A_TIME)

    async def take(self, sources: Mapping[Role, Source], owner: str, size_of: Sizes, fit: Fit) -> tuple[Input, ...]:
        """Store the images as the model is to get them; in one new folder, all of them or none.

        Args:
            sources: what the request gave.
            owner: whose request it is.
            size_of: chooses the video's size.
            fit: how an image of another shape gets it.

        Raises:
            BadImage: nothing is stored.
            StorageUnavailable, StoreUnavailable.
        """
        images: dict[Role, Upload] = {}
        for role, source in sources.items():
            try:
                images[role] = source if isinstance(source, Upload) else await self._fetched(source.url, owner)
            except ImageRefused as error:
                raise BadImage(role, error) from error
        return await anyio.to_thread.run_sync(self._store, images, size_of, fit, limiter=self._decoding)

    async def _fetched(self, url: str, owner: str) -> Upload:
        return uploaded(await fetch(url, self._tls, self._addresses, owner, self._bytes))

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()  # reading the authorities takes its time

    def _store(self, images: Mapping[Role, Upload], size_of: Sizes, fit: Fit) -> tuple[Input, ...]:
        folder = secrets.token_hex(16)
        with TemporaryDirectory(prefix="adaspa-images-") as scratch:
            files: dict[Role, Path] = {}
            size: tuple[int, int] | None = None
            for role, upload in images.items():
                try:
                    with opened(upload.file, self._pixels) as image:
                        size = size or size_of(*upright_size(image))
                        files[role] = Path(scratch, f"{role}.png")
                        fitted(image, size, contain=fit is Fit.contain).save(files[role])
                except ImageRefused as error:
                    raise BadImage(role, error) from error
            assert size is not None
            if self._note is not None:
                self._note(folder)
            try:
                return tuple(self._put(folder, role, path, size) for role, path in files.items())
            except BaseException:
                self._storage.delete_prefix(inputs_prefix(folder))
                raise

    def _put(self, folder: str, role: Role, path: Path, size: tuple[int, int]) -> Input:
        stored = self._storage.put_file(f"{inputs_prefix(folder)}{path.name}", path, "image/png")
        return Input(**stored.model_dump(), role=role, width=size[0], height=size[1])

    def close(self) -> None:
        """Look up no more hosts."""
        self._addresses.close()
