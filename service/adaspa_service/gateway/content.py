"""``GET /videos/{id}/content``: the files of a finished job, streamed from storage, with ranges and conditions."""

import logging
from pathlib import PurePosixPath
from typing import Any

from adaspa_api.video_fields import Variant
from adaspa_api.words import OutputFormat
from adaspa_jobs.job import Artifact
from adaspa_jobs.storage import ObjectMissing
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from adaspa_service.errors import ApiError
from adaspa_service.gateway.errors import ErrorBody
from adaspa_service.gateway.links import ReadableJob
from adaspa_service.gateway.lookup import find_artifact
from adaspa_service.gateway.ranges import Selection, combined, select
from adaspa_service.gateway.state import StateDep

log = logging.getLogger(__name__)
router = APIRouter(tags=["videos"])

CONTENT = {
    kind: {"schema": {"type": "string", "format": "binary"}}
    for kind in (*(output.content_type for output in OutputFormat), "image/webp")
}
FILE_POLICY = "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""Policy for the page that a browser makes around a file when its address is opened."""
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole file", "content": CONTENT},
    206: {"description": "The requested range", "content": CONTENT},
    304: {"description": "Not modified: If-None-Match has the file's ETag"},
    409: {"description": "The job has not completed", "model": ErrorBody},
    412: {"description": "If-Match does not have the file's ETag", "model": ErrorBody},
    416: {"description": "The range is outside the file", "model": ErrorBody},
}


@router.get(
    "/videos/{video_id}/content",
    response_class=Response,
    responses=RESPONSES,
    openapi_extra={"security": [{}]},  # a link needs no key
)
async def download(
    video_id: str, request: Request, state: StateDep, job: ReadableJob, variant: Variant = "video"
) -> Response:
    """Download a file of a completed video, with the owner's key or a link.

    A single byte range is supported. A request for several ranges gets the whole file.
    """
    artifact = find_artifact(job, variant)
    etag = f'"{artifact.sha256}"'
    headers = file_headers(artifact, request, video_id, etag)
    selected = selection(request, artifact, etag)
    if selected.status == 304:
        return not_modified(headers)
    if selected.status == 416:
        unsatisfied = {"Content-Range": f"bytes */{artifact.bytes}"}
        message = f"Range: is outside the file; allowed: within its {artifact.bytes} bytes"
        raise ApiError(416, "range_not_satisfiable", message, "Range", unsatisfied)
    headers["Content-Length"] = str(selected.end - selected.start)
    if selected.status == 206:
        headers["Content-Range"] = f"bytes {selected.start}-{selected.end - 1}/{artifact.bytes}"
    try:
        chunks = await state.storage.stream_range(artifact.key, selected.start, selected.end)
    except ObjectMissing as error:
        raise gone(video_id, variant) from error
    return StreamingResponse(chunks, selected.status, headers)


@router.head("/videos/{video_id}/content", response_class=Response, include_in_schema=False)
async def describe(
    video_id: str, request: Request, state: StateDep, job: ReadableJob, variant: Variant = "video"
) -> Response:
    """Answer with the headers of the whole file, or 304; ranges have no meaning here."""
    artifact = find_artifact(job, variant)
    etag = f'"{artifact.sha256}"'
    headers = file_headers(artifact, request, video_id, etag)
    if selection(request, artifact, etag).status == 304:
        return not_modified(headers)
    try:
        await state.storage.find(artifact.key)
    except ObjectMissing as error:
        raise gone(video_id, variant) from error
    return Response(headers=headers | {"Content-Length": str(artifact.bytes)})


def selection(request: Request, artifact: Artifact, etag: str) -> Selection:
    """Select what to send of the file. Raises ApiError 412 if the request wants another."""
    selected = select(combined(request.headers), artifact.bytes, etag)
    if selected.status == 412:
        message = f"If-Match: is not the file's ETag; allowed: {etag}"
        raise ApiError(412, "precondition_failed", message, "If-Match")
    return selected


def not_modified(headers: dict[str, str]) -> Response:
    """304, with those of the file's headers that belong there."""
    return Response(status_code=304, headers={name: headers[name] for name in ("ETag", "Cache-Control")})


def gone(video_id: str, variant: Variant) -> ApiError:
    """404 for a file that is not in storage any more, which nobody asked for: the record says that it is there."""
    log.error("%s: its %s is missing from storage", video_id, variant)
    return ApiError(404, "file_gone", f"the {variant} of video {video_id} is no longer in storage", "video_id")


def file_headers(artifact: Artifact, request: Request, video_id: str, etag: str) -> dict[str, str]:
    """Return the headers of all answers about a file. A link may stand in another site's page."""
    name = f"{video_id}{PurePosixPath(artifact.key).suffix}"
    return {
        "Content-Type": artifact.content_type,
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f'inline; filename="{name}"',
        "Content-Security-Policy": FILE_POLICY,
        "Cross-Origin-Resource-Policy": "cross-origin" if "signature" in request.query_params else "same-origin",
    }
