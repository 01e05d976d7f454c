"""``GET /videos/{id}/preview``: what a running job is coming to."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from adaspa_service.errors import ApiError
from adaspa_service.gateway.access import Reader
from adaspa_service.gateway.lookup import find
from adaspa_service.gateway.state import StateDep

router = APIRouter(tags=["videos"])

RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A small animated image",
        "content": {"image/webp": {"schema": {"type": "string", "format": "binary"}}},
    },
}


@router.get("/videos/{video_id}/preview", response_class=Response, responses=RESPONSES)
def get_preview(video_id: str, state: StateDep, caller: Reader) -> Response:
    """Return the latest preview of a job in progress. An ended job has none; use its thumbnail or video."""
    found = state.store.preview(find(state, caller, video_id).id)
    if found is None:
        raise ApiError(404, "preview_not_found", f"video {video_id} has no preview now", "video_id")
    return Response(found[1], media_type="image/webp", headers={"Cache-Control": "no-store"})
