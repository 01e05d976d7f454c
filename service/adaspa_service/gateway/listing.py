"""``GET /videos``: jobs by page."""

from typing import Annotated, Literal

from adaspa_api.videos import VideoList
from adaspa_jobs.job import Job
from adaspa_jobs.store import VIDEO_ID, JobStore
from fastapi import APIRouter, Query, Request

from adaspa_service import views
from adaspa_service.errors import bad_field
from adaspa_service.gateway import query
from adaspa_service.gateway.access import Reader
from adaspa_service.gateway.estimates import estimated
from adaspa_service.gateway.queue_positions import QueuePosition, queue_positions
from adaspa_service.gateway.state import StateDep

FIRST_ID_US = 1_735_689_600_000_000
"""No id is older than 2025."""

router = APIRouter(tags=["videos"])


@router.get("/videos", openapi_extra=query.OPENAPI)
def list_videos(
    request: Request,
    state: StateDep,
    caller: Reader,
    *,
    after: Annotated[str | None, Query(description="Cursor: the `last_id` of the previous page.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Annotated[Literal["asc", "desc"], Query(description="Order by creation time.")] = "desc",
) -> VideoList:
    """List jobs by page. Jobs created or deleted meanwhile never repeat or hide others.

    With one or more `metadata[KEY]=VALUE`, returns only jobs with all of these pairs. A page may have fewer than
    `limit` jobs, or none; if `has_more` is true, continue after its `last_id`.
    """
    if after is not None and not was_an_id(after, state.store):
        raise bad_field(
            "after", f"after: {after[:60]!r} is not a cursor; allowed: the last_id of a page", "invalid_cursor"
        )
    wanted = query.metadata_of(request)
    if wanted:
        jobs, cursor = state.store.page_with(wanted, after, limit, order, caller.owner)
    else:
        jobs, cursor = state.store.page(after, limit, order, caller.owner)
    found = [without_layers(job) for job in jobs]
    answer = listed(found, queue_positions(state, jobs), estimated(state, jobs), cursor is not None)
    return answer if cursor is None else answer.model_copy(update={"last_id": cursor})


def listed(jobs: list[Job], found: dict[str, QueuePosition], times: dict[str, float], more: bool) -> VideoList:
    """Jobs as clients see them with the places and times that were found, and whether more follow."""
    data = [views.video(job, found.get(job.id), times.get(job.id)) for job in jobs]
    return VideoList(
        data=data, first_id=data[0].id if data else None, last_id=data[-1].id if data else None, has_more=more
    )


def without_layers(job: Job) -> Job:
    """Leave out the part of the job's report by layer and head, which is most of its bytes."""
    if job.report is None:
        return job
    return job.model_copy(update={"report": job.report.model_copy(update={"layers": []})})


def was_an_id(text: str, store: JobStore) -> bool:
    """Return whether this may have been a video's id.

    Such an id is well formed, and from the past by the store's clock, or by that clock before it was set back.
    """
    if not VIDEO_ID.fullmatch(text):
        return False
    made_us = int(text[6:20], 16)
    return made_us >= FIRST_ID_US and (made_us <= (store.now() + 3600) * 1e6 or made_us <= store.last_id_us())
