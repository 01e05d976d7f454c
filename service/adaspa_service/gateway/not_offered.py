"""Routes of OpenAI's videos API that this service does not offer: each says so, with the reason."""

from fastapi import APIRouter

from adaspa_service.errors import ApiError
from adaspa_service.gateway.access import Reader

REASONS = {
    "edits": "no model here edits an existing video. POST /videos/{id}/remix makes a new one with another prompt",
    "extensions": "no model here has a path for it. To continue a video, send it as start_video of POST /videos",
    "characters": "no model here stores characters. The same seed or a LoRA adapter (loras) comes closest",
}
router = APIRouter(tags=["videos"], include_in_schema=False)


def refusal(kind: str) -> ApiError:
    """501 with the reason."""
    return ApiError(501, "not_offered", f"/videos/{kind} is not supported: {REASONS[kind]}.")


@router.post("/videos/edits")
def edit(_: Reader) -> None:
    """Refuse to change a video."""
    raise refusal("edits")


@router.post("/videos/extensions")
def extend(_: Reader) -> None:
    """Refuse to continue a video."""
    raise refusal("extensions")


@router.post("/videos/characters")
@router.get("/videos/characters/{name}")
def character(_: Reader, name: str = "") -> None:
    """Refuse to make or show a character."""
    raise refusal("characters")
