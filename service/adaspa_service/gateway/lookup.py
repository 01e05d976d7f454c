"""Finding a job for its owner."""

from adaspa_service.contract.job import Job
from adaspa_service.contract.store import VIDEO_ID
from adaspa_service.gateway.access import Caller
from adaspa_service.gateway.errors import ApiError
from adaspa_service.gateway.parts import Parts


def find(parts: Parts, caller: Caller, video_id: str) -> Job:
    """The caller's job of that id. Raises ApiError 404 if there is none, it is another's, or it was deleted."""
    job = parts.store.get(video_id) if VIDEO_ID.fullmatch(video_id) else None
    if job is None or job.discarded or job.owner != caller.owner:
        raise not_found(video_id)
    return job


def not_found(video_id: str) -> ApiError:
    """404 for an id."""
    return ApiError(404, "video_not_found", f"there is no video {video_id[:60]!r}", "video_id")
