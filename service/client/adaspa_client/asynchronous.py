"""Client for programs that await. ``sync.py`` is made of this file: ``make sync-client``."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar, Unpack

import httpx
from adaspa_api.estimates import Estimate
from adaspa_api.models import Model
from adaspa_api.usage import Usage
from adaspa_api.video_fields import Variant, VideoFields
from adaspa_api.videos import Video

from adaspa_client import plans
from adaspa_client.authorization import authorization
from adaspa_client.download import Download, is_file
from adaspa_client.errors import ApiError, api_error, not_understood
from adaspa_client.events import Event, EventReader, is_stream
from adaspa_client.images import Image, body_of
from adaspa_client.local_token import LocalToken
from adaspa_client.plans import Answer, Pause, Plan

Result = TypeVar("Result")
QUIET_SECONDS = 45.0
"""Seconds without even a heartbeat after which an event stream is taken for lost."""
NO_CONTENT = 204


class AsyncClient:
    """Create, follow and download videos.

    Args:
        base_url: the gateway's address, such as ``http://127.0.0.1:8000``.
        timeout: seconds for one request.
        api_key: sent with every request. Without one, a gateway on this machine gets the token that it has left for
            its user.
        retries: further tries of a request that got no answer, or was told that the gateway is busy or away. What
            creates something is sent with an Idempotency-Key, so that it is created once.

    Raises ValueError if no header can carry the key.

    Raises (all methods): ApiError, by its kinds, when the gateway refuses; httpx.TransportError when it cannot be
        reached.
    """

    def __init__(self, base_url: str, timeout: float = 30.0, api_key: str | None = None, retries: int = 2) -> None:
        headers, auth = authorization(api_key), None if api_key else LocalToken.of(base_url)
        self._http = httpx.AsyncClient(base_url=base_url, timeout=timeout, headers=headers, auth=auth)
        self._retries = retries

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def create(
        self,
        prompt: str,
        *,
        image: Image | None = None,
        last_image: Image | None = None,
        idempotency_key: str | None = None,
        **fields: Unpack[VideoFields],
    ) -> Video:
        """Submit a prompt, and the images that the video begins and ends with: each a path, bytes or a URL.

        Raises:
            BadRequest: a field is wrong.
            TypeError: ``n`` is given, which makes several videos: `create_batch`. Or an image is given twice, as
                ``image`` and as ``input_reference``.
        """
        if "n" in fields:
            raise TypeError("create makes one video and takes no n; create_batch makes several")
        body = body_of({"prompt": prompt, **fields}, image, last_image)
        return await self._run(plans.create(body, idempotency_key, self._retries))

    async def create_batch(
        self,
        prompt: str,
        n: int,
        *,
        image: Image | None = None,
        last_image: Image | None = None,
        idempotency_key: str | None = None,
        **fields: Unpack[VideoFields],
    ) -> list[Video]:
        """Submit a prompt with ``n`` seeds that follow one another: all are accepted or none."""
        body = body_of({"prompt": prompt, "n": n, **fields}, image, last_image)
        return await self._run(plans.create_batch(body, idempotency_key, self._retries))

    async def estimate(self, **fields: Unpack[VideoFields]) -> Estimate:
        """Estimate how long a video of these fields would take, and with each preset. Nothing is queued."""
        return await self._run(plans.estimate(fields, self._retries))

    async def remix(
        self, video_id: str, prompt: str, *, webhook_url: str | None = None, idempotency_key: str | None = None
    ) -> Video:
        """Submit another prompt; everything else, the seed included, is as in that video."""
        return await self._run(plans.remix(video_id, prompt, webhook_url, idempotency_key, self._retries))

    async def get(self, video_id: str) -> Video:
        """Return the job's current state."""
        return await self._run(plans.get(video_id, self._retries))

    async def models(self) -> list[Model]:
        """List the served models; the first is the default."""
        return await self._run(plans.models(self._retries))

    async def usage(self, days: int = 30) -> Usage:
        """Sum up the key's jobs in the latest days, today included, by day and model."""
        return await self._run(plans.usage(days, self._retries))

    async def list(
        self,
        order: Literal["asc", "desc"] = "desc",
        page_size: int = 100,
        after: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Video]:
        """Iterate over all jobs by creation time, fetching pages as needed.

        ``after`` starts behind a job, ``metadata`` keeps only jobs with these pairs.
        """
        query: dict[str, str | int] = {"order": order, "limit": page_size} | ({"after": after} if after else {})
        query |= {f"metadata[{key}]": value for key, value in (metadata or {}).items()}
        while True:
            page = await self._run(plans.page(query, self._retries))
            for video in page.data:
                yield video
            if not page.has_more or page.last_id is None:
                return
            query["after"] = page.last_id

    async def link(
        self,
        video_id: str,
        variant: Variant = "video",
        expires_in: int = 3600,
        via: Literal["gateway", "storage"] = "gateway",
    ) -> str:
        """Return a temporary address of a finished job's file that needs no key.

        The gateway serves it or, with ``via="storage"``, the object store itself, if it can.
        """
        query = {"variant": variant, "expires_in": expires_in, "via": via}
        return await self._run(plans.link(video_id, query, self._retries))

    async def cancel(self, video_id: str) -> Video:
        """Stop a job and keep its record; one that has ended stays as it is."""
        return await self._run(plans.cancel(video_id, self._retries))

    async def delete(self, video_id: str) -> None:
        """Stop a job that has not ended, and remove its record and files."""
        await self._run(plans.delete(video_id, self._retries))

    async def wait(
        self,
        video_id: str,
        on_progress: Callable[[Video], None] | None = None,
        poll: float = 0.25,
        timeout: float = 3600.0,
        patience: float = 30.0,
    ) -> Video:
        """Poll a job until it has ended, whether it completed or not.

        Args:
            on_progress: called with every answer.
            poll: seconds between two questions.
            timeout: seconds after which TimeoutError is raised; the job goes on.
            patience: seconds for which a gateway that is away or busy is asked again. If it names a time within them
                (``Retry-After``), it is asked again then.
        """
        return await self._run(plans.wait(video_id, on_progress, poll, timeout, patience))

    async def events(
        self, video_id: str, last_event_id: str | None = None, patience: float = 30.0
    ) -> AsyncIterator[Event]:
        """A job's events from its beginning, or after one, to its end. A lost connection goes on where it was.

        Args:
            last_event_id: of the last event that is known already.
            patience: seconds for which a gateway that is away or busy is tried again. If it names a time within them
                (``Retry-After``), it is tried again then.
        """
        reader, away = EventReader(last_event_id), plans.Patience(patience)
        while True:
            pause = plans.DELAYS[0]
            try:
                async with self._stream(plans.path(video_id, "/events"), reader.headers(), is_stream) as response:
                    if response.status_code == NO_CONTENT:
                        return
                    reader.begin()
                    async for text in response.aiter_text():
                        away.renew()
                        for event in reader.feed(text):
                            yield event
                            if event.last:
                                return
            except (httpx.TransportError, ApiError) as error:
                if away.ends(error):
                    raise
                pause = away.pause(error)
            await asyncio.sleep(pause)

    async def download(self, video_id: str, path: str | Path, variant: Variant = "video") -> Path:
        """Write a finished job's file; ``path`` appears only when it is whole.

        A connection that is lost on the way is taken up where it ended, as often as that brings the file further.

        Raises:
            ValueError: ``path`` leads to a folder, a pipe or a device.
            ApiError: the gateway has no such file for this caller.
        """
        tries = 0
        with Download(path) as download:
            while True:
                before = download.received
                try:
                    async with self._stream(
                        plans.path(video_id, "/content"), download.headers(), is_file, query={"variant": variant}
                    ) as response:
                        download.begin(response)
                        async for chunk in response.aiter_bytes():
                            download.write(chunk)
                    break
                except (httpx.TransportError, ApiError) as error:
                    tries = 0 if download.received > before else tries + 1
                    delay = plans.DELAYS[0] if tries <= self._retries else None
                    await asyncio.sleep(plans.pause_after(error, delay))
        return download.path

    @asynccontextmanager
    async def _stream(
        self,
        path: str,
        headers: Mapping[str, str],
        expected: Callable[[str], bool],
        query: Mapping[str, str] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """A response whose body, if it has one, is still to come and of an expected type. Raises ApiError."""
        timeout = httpx.Timeout(**self._http.timeout.as_dict() | {"read": QUIET_SECONDS})
        async with self._http.stream("GET", path, params=query, headers=headers, timeout=timeout) as response:
            if not response.is_success:
                await response.aread()
                raise api_error(response)
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if response.status_code != NO_CONTENT and not expected(kind):
                raise not_understood(response.status_code, f"GET {path}")
            yield response

    async def _run(self, plan: Plan[Result]) -> Result:
        """Do what a plan asks for."""
        answer: Answer = None
        while True:
            try:
                asked = plan.send(answer)
            except StopIteration as end:
                result: Result = end.value
                return result
            if isinstance(asked, Pause):
                await asyncio.sleep(asked.seconds)
                answer = None
                continue
            try:
                answer = await self._http.request(
                    asked.method, asked.path, params=asked.query, headers=asked.headers, **asked.body
                )
            except httpx.TransportError as error:
                answer = error
