"""Event that a receiver gets, and its place in the OpenAPI document."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from adaspa_api.videos import Video
from adaspa_jobs.job import Job
from fastapi import APIRouter, Header
from pydantic import BaseModel, Field

from adaspa_service import views

EventType = Literal["video.completed", "video.failed", "video.cancelled"]


class VideoEvent(BaseModel):
    """A job has ended."""

    id: str = Field(description="Same as the `webhook-id` header, and the same for every attempt.")
    object: Literal["event"] = "event"
    created_at: int = Field(description="Unix time when the job ended.")
    type: EventType
    timestamp: datetime = Field(description="Time when the job ended (ISO 8601).")
    data: Video = Field(description="The ended job as in `GET /videos/{id}`, without the layers of `attention`.")

    @classmethod
    def of(cls, event_id: str, kind: str, job: Job) -> "VideoEvent":
        """Make the event of an ended job."""
        report = job.report and job.report.model_copy(update={"layers": []})
        video = views.video(job.model_copy(update={"report": report}), None)
        ended = job.completed_at or 0
        at = datetime.fromtimestamp(ended, UTC)
        return cls(id=event_id, created_at=ended, type=kind, timestamp=at, data=video)  # type: ignore[arg-type]


router = APIRouter(tags=["webhooks"])
"""Documents what the gateway sends; none of these is served."""
ANSWERS: dict[int | str, dict[str, Any]] = {
    "2XX": {"description": "Received. Any other status is retried for about a day; redirects are not followed"},
    410: {"description": "Not wanted: the event is not retried"},
    "429": {"description": "Retry after `Retry-After`; the same for 503"},
}


def _document(kind: EventType, words: str) -> None:
    @router.post(kind, summary=words, responses=ANSWERS, status_code=204, name=kind)
    def event(
        body: VideoEvent,
        webhook_id: Annotated[str, Header(description="The same for every attempt at this event.")],
        webhook_timestamp: Annotated[int, Header(description="Unix time of this attempt.")],
        webhook_signature: Annotated[
            str,
            Header(
                description="`v1,` and the base64 of HMAC-SHA256 over `{webhook-id}.{webhook-timestamp}.{body}`; "
                "Several, separated by spaces, while a secret is being replaced."
            ),
        ],
    ) -> None:
        """Receive the end of a job at its `webhook_url`, signed according to Standard Webhooks."""


_document("video.completed", "A video is ready")
_document("video.failed", "A job failed; see `data.error`")
_document("video.cancelled", "A job was cancelled")
