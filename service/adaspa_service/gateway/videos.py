"""``/videos``: create, remix, look up, cancel, delete."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Annotated, Any

from adaspa_api.fields import VideoCreate
from adaspa_api.videos import Video, VideoDeleted, VideoList, VideoRemix
from adaspa_api.words import TERMINAL, Priority
from adaspa_jobs.job import Job
from adaspa_jobs.record import RecordDamaged
from adaspa_jobs.store import Look, StoreUnavailable
from anyio import CapacityLimiter, WouldBlock, to_thread
from fastapi import APIRouter, BackgroundTasks, Header, Request, Response
from fastapi.concurrency import run_in_threadpool

from adaspa_service import views
from adaspa_service.access import audit
from adaspa_service.access.caller import Caller
from adaspa_service.errors import ApiError
from adaspa_service.gateway import polling, waiting
from adaspa_service.gateway.access import LazyReader, Writer
from adaspa_service.gateway.admission import JobRequest, idempotency_of, repeated, ring_for, submit
from adaspa_service.gateway.body import UNREADABLE, openapi, read_body
from adaspa_service.gateway.errors import ErrorBody
from adaspa_service.gateway.estimates import estimated
from adaspa_service.gateway.images import drop_images, made_of
from adaspa_service.gateway.listing import listed
from adaspa_service.gateway.lookup import find, look, not_found
from adaspa_service.gateway.params import batch, labels, remix
from adaspa_service.gateway.queue_positions import queue_positions
from adaspa_service.gateway.removal import remove_if_ended
from adaspa_service.gateway.state import AppState, StateDep
from adaspa_service.gateway.webhook_url import check_webhook
from adaspa_service.inputs.source import closing_all

log = logging.getLogger(__name__)

REFUSED: dict[int | str, dict[str, Any]] = UNREADABLE | {
    422: {"description": "The Idempotency-Key was already used with a different request", "model": ErrorBody},
    429: {"description": "The queue is full, or this key has too many jobs or requests", "model": ErrorBody},
}

router = APIRouter(tags=["videos"])


IdempotencyKey = Annotated[
    str | None, Header(description="Repeating a request with the same key returns the first job.")
]


@router.post("/videos", responses=REFUSED, openapi_extra=openapi(VideoCreate))
async def create_video(
    request: Request,
    response: Response,
    after: BackgroundTasks,
    *,
    state: StateDep,
    caller: Writer,
    idempotency_key: IdempotencyKey = None,
) -> Video | VideoList:
    """Create a video job. Use its id to poll, follow, cancel or delete it.

    With `n`, creates several videos and returns a list. With the header `Prefer: wait=N`, responds when they have
    ended or after N seconds (50 at most).
    """
    with state.turns.of(caller.owner) as turn:
        asked, images = await read_body(request, VideoCreate, state.catalog, state.settings.input_bytes, turn)

        async def wanted(webhook_url: str | None) -> JobRequest:
            catalog = state.catalog.now()
            params = batch(asked, catalog)
            spec = catalog.models[params[0].model]
            noted = labels(asked, spec)
            await state.prompt_check.ask(params[0], noted, caller.owner)
            if images:
                await turn.take()
                params = await made_of(images, params, asked, inputs=state.inputs, spec=spec, owner=caller.owner)
            return JobRequest(spec, params, asked.priority, webhook_url, noted)

        with closing_all(images.values()):
            text = asked.model_dump_json(exclude_none=True)  # the same for JSON and form
            once = idempotency_of(text, idempotency_key)
            videos, new = await admit(
                request, after, state, caller, idempotency=once, webhook_url=asked.webhook_url, wanted=wanted
            )
    note_replay(response, new)
    videos = await held(request, response, state, caller, videos)
    return videos.data[0] if asked.n is None else videos


@router.post("/videos/{video_id}/remix", responses=REFUSED, openapi_extra=openapi(VideoRemix))
async def remix_video(
    video_id: str,
    request: Request,
    response: Response,
    after: BackgroundTasks,
    *,
    state: StateDep,
    caller: Writer,
    idempotency_key: IdempotencyKey = None,
) -> Video:
    """Create a video with a new prompt and all other settings of this one, including the seed, whatever its status."""
    with state.turns.of(caller.owner) as turn:
        asked, _ = await read_body(request, VideoRemix, state.catalog, state.settings.input_bytes, turn)
    text = f"{video_id} {asked.model_dump_json(exclude_none=True)}"

    async def wanted(webhook_url: str | None) -> JobRequest:
        source = await run_in_threadpool(find, state, caller, video_id)
        catalog = state.catalog.now()
        params = remix(source, asked.prompt, catalog)
        spec = catalog.models[params.model]
        noted = labels(asked, spec)
        await state.prompt_check.ask(params, noted, caller.owner)
        priority = source.priority if source.priority is Priority.bulk else None
        return JobRequest(spec, [params], priority, webhook_url, noted)

    once = idempotency_of(text, idempotency_key)
    videos, new = await admit(
        request, after, state, caller, idempotency=once, webhook_url=asked.webhook_url, wanted=wanted
    )
    note_replay(response, new)
    return (await held(request, response, state, caller, videos)).data[0]


async def admit(
    request: Request,
    after: BackgroundTasks,
    state: AppState,
    caller: Caller,
    *,
    idempotency: tuple[str, str] | None,
    webhook_url: str | None,
    wanted: Callable[[str | None], Awaitable[JobRequest]],
) -> tuple[VideoList, bool]:
    """Admit the jobs that are wanted, with the checked webhook_url; the jobs, and whether they are new.

    A request that was accepted before is not judged again: its receiver's name may be gone meanwhile, or the video that
    it is a remix of. The bells are rung ``after`` the answer, unless that waits for the jobs.
    """
    if idempotency is not None:
        known = await run_in_threadpool(repeated, state, caller, idempotency)
        if known is not None:
            return await run_in_threadpool(accepted, state, known), False
    url = await check_webhook(state, webhook_url, caller.owner)
    jobs = await wanted(url)

    def admit_new() -> tuple[VideoList, bool]:
        try:
            admitted = submit(state, caller, jobs, idempotency)
        except ApiError:
            drop_images(state, jobs)
            raise
        if not admitted.new:  # another request with the same key was faster, with images of its own
            drop_images(state, jobs)
        for job in admitted.jobs if admitted.new else ():
            audit.note(request, caller, "job.created", job=job.id)
        if waiting.asked_for(request) is None:
            after.add_task(ring_for, state, admitted)
        else:
            ring_for(state, admitted)
        return accepted(state, admitted.jobs, admitted.positions), admitted.new

    return await run_in_threadpool(admit_new)


def accepted(state: AppState, jobs: list[Job], positions: dict[str, int] | None = None) -> VideoList:
    """Accepted jobs as clients see them, with their positions where these are known.

    Their places are left out where Redis is lost just now: a client that was told to try again would make the jobs
    twice.
    """
    try:
        found, times = queue_positions(state, jobs, positions), estimated(state, jobs)
    except StoreUnavailable as error:
        log.warning("%s: accepted, but its queue position is unknown: %s", jobs[0].id, error)
        found, times = {}, {}
    return listed(jobs, found, times, more=False)


async def held(request: Request, response: Response, state: AppState, caller: Caller, videos: VideoList) -> VideoList:
    """Return the accepted videos when the client wants the answer, and tell it when to poll."""
    if waiting.asked_for(request) is not None:
        jobs = await waiting.wait(request, response, state, caller, [video.id for video in videos.data])
        if jobs:
            videos = await run_in_threadpool(accepted, state, jobs)
    polling.tell(response, videos.data[0])
    return videos


def note_replay(response: Response, new: bool) -> None:
    """Tell a client that its Idempotency-Key gave an earlier job again."""
    if not new:
        response.headers["Idempotent-Replayed"] = "true"


@router.get("/videos/{video_id}", response_model=Video)
def get_video(video_id: str, state: StateDep, caller: LazyReader) -> Response:
    """Return a job's current state."""
    video = view(state, look(state, caller(), video_id))
    response = Response(video.model_dump_json(), media_type="application/json")  # checked when it was made
    polling.tell(response, video)
    return response


@router.post("/videos/{video_id}/cancel")
async def cancel_video(video_id: str, request: Request, state: StateDep, caller: Writer) -> Video:
    """Cancel a job and keep its record: a queued one at once, a running one within a denoising step.

    A job that has ended does not change.
    """

    def cancel() -> Video:
        before = find(state, caller, video_id)
        state.store.request_cancel(video_id)
        if before.status not in TERMINAL:
            audit.note(request, caller, "job.cancelled", job=video_id)
        return view(state, look(state, caller, video_id))

    return await to_thread.run_sync(cancel, limiter=state.confirmations)


@router.delete("/videos/{video_id}")
async def delete_video(video_id: str, request: Request, state: StateDep, caller: Writer) -> VideoDeleted:
    """Delete a job with any status. Its id becomes unknown at once.

    A queued job leaves the queue; a running one stops within a denoising step. Its files are removed before its
    record. If storage is unavailable, they are removed later.
    """

    def discard() -> None:
        with suppress(RecordDamaged):  # which is its owner's all the same
            find(state, caller, video_id)
        if not state.store.discard(video_id):
            raise not_found(video_id)
        audit.note(request, caller, "job.deleted", job=video_id)

    await to_thread.run_sync(discard, limiter=state.confirmations)
    with suppress(WouldBlock):  # then the janitor removes it
        state.removals.acquire_nowait()  # at once: whoever looks first and takes later may have to wait
        try:
            await to_thread.run_sync(remove_if_ended, state, video_id, limiter=CapacityLimiter(1))
        finally:
            state.removals.release()
    return VideoDeleted(id=video_id)


def view(state: AppState, found: Look) -> Video:
    """Show the job as clients see it."""
    job, positions = found.job, {} if found.position is None else {found.job.id: found.position}
    return views.video(job, queue_positions(state, [job], positions).get(job.id), estimated(state, [job]).get(job.id))
