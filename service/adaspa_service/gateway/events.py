"""``GET /videos/{id}/events``: a job's transitions and steps as server-sent events, resumable by Last-Event-ID."""

import json
import re
import time
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Annotated, Any

from adaspa_api.words import TERMINAL, JobStatus
from adaspa_jobs.job import OPEN_OWNER, Job, Progress, percent
from adaspa_jobs.queue import queue_key
from adaspa_jobs.record import RecordUnreadable
from adaspa_jobs.scripts import PREFIX, StoreUnavailable
from fastapi import APIRouter, Header, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from adaspa_service import views
from adaspa_service.access.caller import Caller
from adaspa_service.errors import ApiError, bad_field
from adaspa_service.gateway import queue_positions
from adaspa_service.gateway.access import Reader
from adaspa_service.gateway.feed import BATCH
from adaspa_service.gateway.lookup import find
from adaspa_service.gateway.state import AppState, StateDep

HEARTBEAT_SECONDS = 15.0
"""Proxies close a connection on which nothing comes for longer."""
RECHECK_SECONDS = 5.0
"""Seconds after which an open stream makes sure again that its caller may still follow it."""
STREAMS_SHARE = 4
"""One caller's streams may take the gateway's connections divided by this."""
EVENT_ID = re.compile(r"[0-9]{1,19}-[0-9]{1,19}", re.ASCII)
START = "0-0"
DESCRIPTION = """Server-sent events: `queued`, `in_progress`, `progress`, `preview`, and at the end `completed`, \
`failed` or `cancelled`. The data are fields of the video object; the last event has the whole object. While the job \
waits, a `progress` event without an id reports each new `queue_position`. A `preview` has an animated WebP as a data \
URI in `preview`. Only the latest preview is stored; late subscribers do not receive earlier ones. To resume after a \
lost connection, send `Last-Event-ID`; 204 means that no events are left."""
EVENT = {
    "type": "object",
    "description": "One event of the stream.",
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9]+-[0-9]+$"},
        "event": {"enum": ["queued", "in_progress", "progress", "preview", *sorted(TERMINAL)]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": DESCRIPTION, "content": {"text/event-stream": {"schema": EVENT}}},
    204: {"description": "The job has ended and the client has received its last event"},
}

router = APIRouter(tags=["videos"])


@router.get("/videos/{video_id}/events", response_class=Response, responses=RESPONSES)
async def follow_video(
    video_id: str,
    request: Request,
    state: StateDep,
    caller: Reader,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Stream a job's events from its start, or from the event after Last-Event-ID, to its end."""
    if last_event_id is not None and not EVENT_ID.fullmatch(last_event_id):
        message = f"Last-Event-ID: {last_event_id[:60]!r} is not an event id; allowed: the id of an event of this video"
        raise bad_field("Last-Event-ID", message)
    job = await run_in_threadpool(find, state, caller, video_id)
    stream = Stream(state, job, last_event_id or START)
    if job.status in TERMINAL and not await stream.read():
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    who = streaming_caller(request, caller)
    return CountedStream(stream.text(request, caller), request.app.state.streams, who, headers)


def streaming_caller(request: Request, caller: Caller) -> str:
    """Return whose stream this counts as: the key's, or without keys the address's, because all share one owner."""
    address = request.client.host if request.client else ""
    return address if caller.owner == OPEN_OWNER else caller.owner


async def read_events(state: AppState, video_id: str, last_id: str) -> list[tuple[str, dict[str, str]]]:
    """A job's next events behind one, in order, as many as there are or BATCH. Raises StoreUnavailable."""
    asked = "XRANGE", f"{PREFIX}events:{video_id}", f"({last_id}", "+", "COUNT", BATCH
    (found,) = await state.rounds.ask([asked])
    return [
        (event_id.decode(), {name.decode(): value.decode() for name, value in fields.items()})
        for event_id, fields in found
    ]


class OpenStreams:
    """Event streams that this gateway serves: those of one caller leave connections to others.

    Args:
        most: of one caller.
    """

    def __init__(self, most: int) -> None:
        self._most, self._open = most, Counter[str]()

    @contextmanager
    def another(self, caller: str) -> Iterator[None]:
        """Count one while it is open. Raises ApiError: 429, where the caller has as many as it may."""
        if self._open[caller] >= self._most:
            message = (
                f"this caller has {self._most} event streams open; allowed: {self._most}. Close one, or poll instead."
            )
            raise ApiError(429, "too_many_streams", message)
        self._open[caller] += 1
        try:
            yield
        finally:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]


class CountedStream(EventSourceResponse):
    """An event stream that is counted from before its first byte until it is over, however it ends.

    Args:
        text: the events.
        streams: those that are open.
        caller: whose it is.
        headers: of the answer.
    """

    def __init__(self, text: AsyncIterator[bytes], streams: OpenStreams, caller: str, headers: dict[str, str]) -> None:
        super().__init__(text, headers=headers)
        self._streams, self._caller = streams, caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._streams.another(self._caller):
            await super().__call__(scope, receive, send)


class Stream:
    """One client's way through a job's events.

    Args:
        state: the gateway's.
        job: the current job.
        last_id: of the event that the client had last.
    """

    def __init__(self, state: AppState, job: Job, last_id: str) -> None:
        self.state, self.video_id, self.last_id = state, job.id, last_id
        self._job, self._told = job, (0, 0)

    async def text(self, request: Request, caller: Caller) -> AsyncIterator[bytes]:
        """Write the events as the protocol wants them, up to the last one.

        The stream just ends when Redis is lost, the gateway stops or the caller's key has ended: the client comes
        again, to this gateway or another, and goes on where it was if it may.
        """
        heard = checked = time.monotonic()
        events: list[tuple[str, dict[str, str]]] = []
        with self.state.feed.following(self.video_id, self.last_id) as follower, suppress(StoreUnavailable):
            while not request.app.state.stopping.is_set():
                news = bool(events) or await follower.wait()
                events = await self.read() if news else []
                # Behind the read: what came after the key's end is not told, however soon one event follows another.
                if time.monotonic() - checked > RECHECK_SECONDS:
                    checked = time.monotonic()
                    if not await run_in_threadpool(self.state.callers.still_has_access, caller):
                        return
                for event_id, fields in events:
                    heard = time.monotonic()
                    if text := await self.write(event_id, fields):
                        yield text
                    self.last_id = event_id
                    if JobStatus(fields["status"]) in TERMINAL:
                        return
                if news:
                    continue
                there, rank = await self.look()
                if not there:
                    for text in await self.rest():
                        yield text
                    return
                if rank is not None and (text := await self.write_position(rank)):
                    heard = time.monotonic()
                    yield text
                elif time.monotonic() - heard > HEARTBEAT_SECONDS:
                    heard = time.monotonic()
                    yield format_sse_event(comment="heartbeat")

    async def read(self) -> list[tuple[str, dict[str, str]]]:
        """Read the next events after the last one, in order, as many as there are or BATCH."""
        return await read_events(self.state, self.video_id, self.last_id)

    async def rest(self) -> list[bytes]:
        """Say how a job ended whose record is gone already; its events stay for a moment longer."""
        written = [await self.write(event_id, fields) for event_id, fields in await self.read()]
        return [text for text in written if text]

    async def look(self) -> tuple[bool, int | None]:
        """Ask whether the job's record is still there, and of a job that waits for its rank in the queue.

        The job may have been removed before its last event was read. Asked when a second has passed without an event.
        """
        asked: list[tuple[str, ...]] = [("EXISTS", f"{PREFIX}job:{self.video_id}")]
        if self._job.status is JobStatus.queued:
            queue = queue_key(self._job.params.model, self._job.priority)
            asked.append(("ZRANK", f"{PREFIX}waiting:{queue}", self.video_id))
        records, *ranks = await self.state.rounds.ask(asked)
        return bool(records), ranks[0] if ranks else None

    async def write_position(self, rank: int) -> bytes | None:
        """An event of the place in the queue and the workers that serve it, if either is not as it was told last.

        It has no id, because nothing happened to this job.
        """
        load = await self.state.loads.soon(self._job.params.model)
        place = queue_positions.place(load, self._job, rank + 1)
        if (place.position, place.workers) == self._told:
            return None
        self._told = (place.position, place.workers)
        data = {"id": self.video_id, "object": "video", "status": "queued", "progress": 0, "phase": "queued"}
        told = {"queue_position": place.position, "workers": place.workers, "starts_in_seconds": place.starts_in}
        return format_sse_event(event="progress", data_str=json.dumps(data | told))

    async def write(self, event_id: str, fields: Mapping[str, str]) -> bytes | None:
        """Return one event, or None for a preview that a later one has replaced.

        The last event carries the whole video, unless that is already gone or cannot be read.
        """
        status = JobStatus(fields["status"])
        progress = Progress.model_validate_json(fields["progress"])
        data: dict[str, Any] = {
            "id": self.video_id,
            "object": "video",
            "status": status,
            "progress": 100 if status is JobStatus.completed else percent(progress),
            "attempt": int(fields["attempt"]),
            **progress.model_dump(mode="json"),
        }
        if status in TERMINAL:
            data["phase"] = status
        self._job, self._told = self._job.model_copy(update={"status": status}), (0, 0)
        if fields["type"] == "preview":
            found = await run_in_threadpool(self.state.store.preview, self.video_id)
            if found is None or found[0] != progress.preview_step:
                return None
            data["preview"] = f"data:image/webp;base64,{b64encode(found[1]).decode()}"
        job = None
        if status in TERMINAL:
            with suppress(RecordUnreadable):
                job = await run_in_threadpool(self.state.store.get, self.video_id)
        body = views.video(job, None).model_dump_json() if job else json.dumps(data)
        return format_sse_event(id=event_id, event=fields["type"], data_str=body)
