"""The event that a receiver gets, and its place in the OpenAPI document."""

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

    id: str = Field(description="As in `webhook-id`: the same for every attempt.")
    object: Literal["event"] = "event"
    created_at: int = Field(description="When the job ended, in Unix seconds.")
    type: EventType
    timestamp: datetime = Field(description="When the job ended.")
    data: Video = Field(
        description="The job as `GET /videos/{id}` shows it at its end, without the layers of `attention`."
    )

    @classmethod
    def of(cls, event_id: str, kind: str, job: Job) -> "VideoEvent":
        """The event of an ended job."""
        report = job.report and job.report.model_copy(update={"layers": []})
        video = views.video(job.model_copy(update={"report": report}), None)
        ended = job.completed_at or 0
        at = datetime.fromtimestamp(ended, UTC)
        return cls(id=event_id, created_at=ended, type=kind, timestamp=at, data=video)  # type: ignore[arg-type]


router = APIRouter(tags=["webhooks"])
"""Documents what the gateway sends; none of these is served."""
ANSWERS: dict[int | str, dict[str, Any]] = {
    "2XX": {"description": "Received. Anything else is tried again, over about a day; redirects are not followed"},
    410: {"description": "Not wanted: the event is not sent again"},
    "429": {"description": "Later, as `Retry-After` says; so with 503"},
}


def _document(kind: EventType, words: str) -> None:
    @router.post(kind, summary=words, responses=ANSWERS, status_code=204, name=kind)
    def event(
        body: VideoEvent,
        webhook_id: Annotated[str, Header(description="The same for every attempt at this event.")],
        webhook_timestamp: Annotated[int, Header(description="Of this attempt, Unix seconds.")],
        webhook_signature: Annotated[
            str,
            Header(
                description="`v1,` and the base64 of HMAC-SHA256 over `{webhook-id}.{webhook-timestamp}.{body}`; "
                "several between spaces while a secret is replaced."
            ),
        ],
    ) -> None:
        """Sent to the `webhook_url` of the job, signed by the Standard Webhooks specification."""


_document("video.completed", "A video is there")
_document("video.failed", "A job failed; `data.error` says why")
_document("video.cancelled", "A job was cancelled")
