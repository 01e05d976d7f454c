"""``POST /videos/estimate``: how long a video would take, by what was measured; and the same for jobs."""

from adaspa_api.estimates import Estimate, Expectation, Measured, VideoEstimate
from adaspa_api.fields import rows
from adaspa_api.limits import Media
from adaspa_api.words import TERMINAL
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.job import Job, JobParams
from adaspa_jobs.times import OWN_SETTINGS, Timed, expected, preset_of
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from adaspa_service.access.caller import Caller
from adaspa_service.gateway.access import Reader
from adaspa_service.gateway.admission import JobRequest, check
from adaspa_service.gateway.body import UNREADABLE, openapi, read_body
from adaspa_service.gateway.params import batch, labels
from adaspa_service.gateway.state import AppState, StateDep
from adaspa_service.gateway.webhook_url import check_webhook
from adaspa_service.inputs.source import closing_all

router = APIRouter(tags=["videos"])
BY_HAND = "AdaSpa settings of your own are not timed; see qualities for the presets"


@router.post("/videos/estimate", responses=UNREADABLE, openapi_extra=openapi(VideoEstimate))
async def estimate_video(request: Request, state: StateDep, caller: Reader) -> Estimate:
    """Estimate how long a video would take with each preset. Nothing is queued.

    Takes and checks the same fields as `POST /videos`, but prompt and images are optional, and images are not opened.
    """
    with state.turns.of(caller.owner) as turn:
        asked, images = await read_body(request, VideoEstimate, state.catalog, state.settings.input_bytes, turn)
        catalog = state.catalog.now()
        with closing_all(images.values()):
            params = batch(with_needed_images(asked, catalog), catalog)
    spec = catalog.models[params[0].model]
    noted = labels(asked, spec)
    url = await check_webhook(state, asked.webhook_url, caller.owner)
    return await run_in_threadpool(estimate, state, caller, JobRequest(spec, params, asked.priority, url, noted))


def with_needed_images(asked: VideoEstimate, catalog: Catalog) -> VideoEstimate:
    """Add something for each image that is left out and that the model does nothing without."""
    spec = catalog.default if asked.model is None else catalog.get(asked.model)
    media = {name: row.limits for name, row in rows(VideoEstimate).items() if isinstance(row.limits, Media)}
    needed = [name for name, one in media.items() if spec and one.needed(spec) and not getattr(asked, name)]
    return asked.model_copy(update=dict.fromkeys(needed, "left out"))


def estimate(state: AppState, caller: Caller, wanted: JobRequest) -> Estimate:
    """Estimate how long the first of the jobs would take. Raises ApiError, 400 as of ``submit``; StoreUnavailable."""
    spec, params = wanted.spec, wanted.params[0]
    queue, _ = check(state, caller, wanted)
    load, times = state.loads.get(spec.id), state.times.get(spec.id)
    starts_in = load.starts_in(queue, load.queues[queue].waiting + 1)
    preset = preset_of(params)
    own = _expectation(params, times[preset], preset) if preset else _unknown(BY_HAND)
    return Estimate(
        **own.model_dump(),
        model=spec.id,
        size=f"{params.width}x{params.height}",
        num_frames=params.num_frames,
        fps=params.fps,
        steps=params.steps,
        quality=params.quality,
        priority=queue,
        starts_in_seconds=None if starts_in is None else round(starts_in, 1),
        workers=load.queues[queue].workers,
        qualities={name: _expectation(params, times[name], name) for name in (OWN_SETTINGS, *map(str, spec.qualities))},
    )


def estimated(state: AppState, jobs: list[Job]) -> dict[str, float]:
    """Return the seconds that unfinished jobs are expected to take on a worker, if that is known."""
    timed = {job.id: state.times.get(job.params.model) for job in jobs if is_expected(job)}
    found = {job.id: seconds_of(job, timed[job.id]) for job in jobs if job.id in timed}
    return {job_id: seconds for job_id, seconds in found.items() if seconds is not None}


def is_expected(job: Job) -> bool:
    """Tell whether it is of interest how long a job takes, and may be known."""
    return job.status not in TERMINAL and preset_of(job.params) is not None


def seconds_of(job: Job, times: dict[str, list[Timed]]) -> float | None:
    """Return the seconds that a job is expected to take on a worker, by its model's times."""
    preset = preset_of(job.params)
    like = expected(job.params, times[preset]) if preset else None
    return None if like is None else round(like.seconds, 1)


def _expectation(params: JobParams, timed: list[Timed], preset: str) -> Expectation:
    like = expected(params, timed)
    if like is None:
        settings = "the model's own settings" if preset == OWN_SETTINGS else f"quality {preset}"
        guidance = "over 1" if params.guidance_scale > 1 else "of 1 or less"
        return _unknown(f"no video of this model with {settings} and guidance_scale {guidance} has completed yet")
    near = like.nearest
    same = (near.width, near.height, near.num_frames) == (params.width, params.height, params.num_frames)
    size = f"{near.width}x{near.height}"
    measured = Measured(jobs=like.jobs, size=size, num_frames=near.num_frames, steps=near.steps, scaled=not same)
    return Expectation(
        estimated_seconds=round(like.seconds, 1),
        denoising_seconds=round(like.denoising, 1),
        measured=measured,
        reason=None,
    )


def _unknown(reason: str) -> Expectation:
    return Expectation(estimated_seconds=None, denoising_seconds=None, measured=None, reason=reason)
