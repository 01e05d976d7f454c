"""Video objects of the API: those of the open ``/v1/videos`` API, plus our own fields.

Fields that a later version adds to a response have defaults, because the gateway may run an earlier version.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from adaspa_api.fields import Metadata, Settled, User, WebhookUrl
from adaspa_api.report import AttentionReport, JobError, TokenCount
from adaspa_api.words import (
    TERMINAL,
    End,
    JobStatus,
    Open,
    OutputFormat,
    Phase,
    Priority,
    Quality,
    Role,
    StepKind,
    Task,
)


class VideoRemix(BaseModel):
    """Body of ``POST /videos/{id}/remix``."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"prompt": "a small red star moves left"}})

    prompt: str = Field(description="Text that describes the new video. Everything else, including the seed, is kept.")
    webhook_url: WebhookUrl = None
    metadata: Metadata = None
    user: User = None


class VideoInput(BaseModel):
    """An input as the model receives it: an image or video upright and fitted, a sound cut to the video's length."""

    role: Open[Role]
    url: str = Field(
        description="Address of the file; needs the owner's key. For a public one: `GET /videos/{id}/link`."
    )
    content_type: str
    width: int | None = Field(default=None, description="Width of an image or video, in pixels.")
    height: int | None = Field(default=None, description="Height of an image or video, in pixels.")
    frames: int | None = Field(
        default=1, description="Number of frames of an input video: the last ones of the file sent. Null for a sound."
    )
    seconds: float | None = Field(default=None, description="Length of a sound in seconds.")
    sha256: str = Field(description="SHA-256 of the file.")


def _with_all_that_was_asked(schema: JsonDict) -> None:
    required = schema["required"]
    assert isinstance(required, list)
    schema["required"] = list(dict.fromkeys([*Settled.model_fields, *required]))


class Video(Settled):
    """A video job."""

    model_config = ConfigDict(json_schema_extra=_with_all_that_was_asked)

    id: str
    object: Literal["video"] = "video"
    status: Open[JobStatus]
    progress: int = Field(ge=0, le=100, description="Progress in percent; 100 only when completed.")
    seconds: str = Field(description="Length of the clip in seconds.")
    size: str
    metadata: dict[str, str] = Field(default={}, description="Key-value pairs that the client stored with the job.")
    user: str | None = Field(default=None, description="The client's name for the end user.")
    created_at: int
    completed_at: int | None = Field(description="Unix time when the job ended, with any status.")
    expires_at: int | None = Field(description="Unix time when the job and its files are removed.")
    error: JobError | None
    remixed_from_video_id: str | None = Field(description="Id of the video that this one was remixed from.")

    task: Open[Task] = Field(default=Task.text_to_video, description="What the video is generated from.")
    inputs: list[VideoInput] = Field(default=[], description="Input images.")
    quality: Open[Quality] | None = None
    output_format: Open[OutputFormat]
    phase: Open[Phase | End] = Field(description="What the job is doing now; once ended, its status.")
    step: int = Field(description="Number of finished denoising steps.")
    step_kind: Open[StepKind] | None = Field(description="Kind of attention in the last finished step.")
    priority: Open[Priority] = Field(description="The job's queue.")
    queue_position: int | None = Field(
        description="While queued: position in the queue, where 1 is next. Null if not known yet."
    )
    workers: int | None = Field(
        default=None,
        description="While queued: number of workers that serve the job's queue now. If 0, the job waits for one.",
    )
    starts_in_seconds: float | None = Field(
        description="While queued: expected seconds until a worker starts the job. Null until jobs of the model have "
        "been timed."
    )
    estimated_seconds: float | None = Field(
        default=None,
        description="Until the job ends: expected seconds on a worker. Null until jobs of its model and preset have "
        "been timed.",
    )
    eta_seconds: float | None = Field(description="Expected seconds of denoising left. Null until steps are timed.")
    preview_url: str | None = Field(description="While in progress: address of a small animated preview.")
    started_at: int | None
    prompt_tokens: TokenCount | None = Field(
        default=None,
        description="Once the prompt is encoded: how many of its tokens the model used, and how many were cut off at "
        "the end.",
    )
    negative_prompt_tokens: TokenCount | None = Field(
        default=None, description="The same counts for the negative prompt, if there is one."
    )
    resumed_from_step: int | None = Field(description="Step from which the latest attempt resumed.")
    attempt: int = Field(description="Number of times a worker started the job.")
    attention: AttentionReport | None = Field(description="Once completed: what AdaSpa did.")
    timings: dict[str, float] = Field(description="Seconds by phase.")
    warnings: list[str] = Field(
        default=[], description="Once completed: what looks wrong with the clip, such as frames of a single colour."
    )
    content_type: str | None = Field(default=None, description="Once completed: content type of the video's file.")
    has_audio: bool | None = Field(default=None, description="Once completed: whether the video has sound.")

    @property
    def done(self) -> bool:
        """True if the job has ended, with any status."""
        return self.status in TERMINAL


class VideoList(BaseModel):
    """A page of videos."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None = Field(description="Cursor of the next page: pass it as `after`.")
    has_more: bool


class VideoDeleted(BaseModel):
    """Response to a deletion."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class Link(BaseModel):
    """A temporary address that needs no API key."""

    object: Literal["video.link"] = "video.link"
    url: str
    expires_at: int = Field(description="Unix time when the link expires: as requested, or earlier with its API key.")
