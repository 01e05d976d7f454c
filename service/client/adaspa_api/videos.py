"""What clients send and get: OpenAI's video objects, with our fields on top.

A field that a later version adds to an answer has a default: the gateway may be of an earlier one.
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

Variant = Literal["video", "thumbnail", "spritesheet", "first_frame", "last_frame"]


class VideoRemix(BaseModel):
    """What ``POST /videos/{id}/remix`` takes."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"prompt": "a small red star moves left"}})

    prompt: str = Field(description="What the new video shows; everything else, the seed included, stays.")
    webhook_url: WebhookUrl = None
    metadata: Metadata = None
    user: User = None


class VideoInput(BaseModel):
    """An image that a video is made of, as the model gets it: turned upright and fitted to the video's size."""

    role: Open[Role]
    url: str = Field(description="Where it is, for the owner's key; `GET /videos/{id}/link` makes it one without.")
    content_type: str
    width: int
    height: int
    sha256: str = Field(description="Of the file.")


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
    progress: int = Field(ge=0, le=100, description="Percent; 100 only when completed.")
    seconds: str = Field(description="Length of the clip.")
    size: str
    metadata: dict[str, str] = Field(default={}, description="Pairs of texts that the client gave the job.")
    user: str | None = Field(default=None, description="For whom it is, as the client said.")
    created_at: int
    completed_at: int | None = Field(description="When the job ended, however it ended.")
    expires_at: int | None = Field(description="When the job and its files are removed.")
    error: JobError | None
    remixed_from_video_id: str | None = Field(description="The video that this one was remixed from.")

    task: Open[Task] = Field(default=Task.text_to_video, description="What the model was asked for.")
    inputs: list[VideoInput] = Field(default=[], description="The images that it is made of.")
    quality: Open[Quality] | None = None
    output_format: Open[OutputFormat]
    phase: Open[Phase | End] = Field(description="What the job is doing; once it has ended, its status.")
    step: int = Field(description="Finished denoising steps.")
    step_kind: Open[StepKind] | None = Field(description="Kind of attention in the last finished step.")
    priority: Open[Priority] = Field(description="The queue it waits, or waited, in.")
    queue_position: int | None = Field(
        description="While queued: the place in its queue, 1 is next; null if it is not known yet."
    )
    workers: int | None = Field(
        default=None,
        description="While queued: the workers that serve its queue now. With 0 it waits for one to start.",
    )
    starts_in_seconds: float | None = Field(
        description="While queued: when a worker is expected to begin it, once jobs of the model have been timed."
    )
    estimated_seconds: float | None = Field(
        default=None,
        description="Until it has ended: seconds that a worker is expected to take for it, once jobs of its model and "
        "preset have been timed.",
    )
    eta_seconds: float | None = Field(description="Seconds left of the denoising, once steps are timed.")
    preview_url: str | None = Field(description="While in progress: a small moving picture of what it is coming to.")
    started_at: int | None
    prompt_tokens: TokenCount | None = Field(
        default=None,
        description="Once it is encoded: how many of the prompt's tokens the model took, and how many at its end had "
        "no room and no effect.",
    )
    negative_prompt_tokens: TokenCount | None = Field(
        default=None, description="The same of the negative prompt, if there is one."
    )
    resumed_from_step: int | None = Field(description="The checkpoint's step that the latest attempt went on from.")
    attempt: int = Field(description="How many times a worker began the job.")
    attention: AttentionReport | None = Field(description="Once completed: what AdaSpa did.")
    timings: dict[str, float] = Field(description="Seconds by phase.")
    warnings: list[str] = Field(
        default=[], description="Once completed: what is odd about the clip, as frames of one colour."
    )
    content_type: str | None = Field(default=None, description="Once completed: of the video's file.")
    has_audio: bool | None = Field(default=None, description="Once completed: whether the video's file has sound.")

    @property
    def done(self) -> bool:
        """Whether the job has ended, one way or another."""
        return self.status in TERMINAL


class VideoList(BaseModel):
    """A page of videos."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None = Field(description="The cursor (``after``) of the next page.")
    has_more: bool


class VideoDeleted(BaseModel):
    """The answer to a deletion."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class Link(BaseModel):
    """An address that needs no key."""

    object: Literal["video.link"] = "video.link"
    url: str
    expires_at: int = Field(description="When it ends: as asked for, or with the API key if that is earlier.")
