"""Finding a job and its files."""

from adaspa_api.video_fields import Variant
from adaspa_api.words import TERMINAL, JobStatus, Role
from adaspa_jobs.job import Artifact, Job
from adaspa_jobs.record import RecordUnreadable
from adaspa_jobs.store import VIDEO_ID, Look

from adaspa_service.access.caller import Caller
from adaspa_service.errors import ApiError
from adaspa_service.gateway.state import AppState

OF_THE_REQUEST = [role.variant for role in Role]
"""Variants that the request brought."""


def find(state: AppState, caller: Caller, video_id: str) -> Job:
    """Find the caller's job of that id. Raises ApiError 404 if there is none, it is another's, or it was deleted."""
    return look(state, caller, video_id).job


def look(state: AppState, caller: Caller, video_id: str) -> Look:
    """Find the caller's job of that id, and its position in the queue. Raises ApiError as ``find``."""
    try:
        found = state.store.look(video_id) if VIDEO_ID.fullmatch(video_id) else None
    except RecordUnreadable as error:
        if not error.is_shown_to(caller.owner):
            raise not_found(video_id) from error
        raise
    if found is None or not found.is_shown_to(caller.owner):
        raise not_found(video_id)
    return found


def find_linked(state: AppState, video_id: str) -> Job:
    """Find the job of that id, whoever owns it, for a caller whose right was proved otherwise. Raises ApiError 404."""
    job = state.store.get(video_id) if VIDEO_ID.fullmatch(video_id) else None
    if job is None or job.discarded:
        raise not_found(video_id)
    return job


def find_artifact(job: Job, variant: Variant) -> Artifact:
    """Find the file's description. Raises ApiError: 409 while there is none, 404 if there never will be.

    The images of a request are there from the beginning, those of its result once it is completed.
    """
    given = {each.role.variant: each for each in job.params.inputs}
    if variant in given:
        return given[variant]
    if variant not in OF_THE_REQUEST and job.status is not JobStatus.completed:
        later = "it has no files" if job.status in TERMINAL else "its files are available once it is completed"
        message = f"video {job.id} is {job.status}; {later}"
        raise ApiError(409, "video_not_ready", message, "video_id")
    if variant not in job.artifacts:
        message = f"variant: {variant} does not exist; allowed: {', '.join([*job.artifacts, *given]) or 'none'}"
        raise ApiError(404, "variant_not_found", message, "variant")
    return job.artifacts[variant]


def not_found(video_id: str) -> ApiError:
    """404 for an id."""
    return ApiError(404, "video_not_found", f"there is no video {video_id[:60]!r}", "video_id")
