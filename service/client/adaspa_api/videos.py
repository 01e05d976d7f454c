"""What clients send and get: OpenAI's video objects, with our fields on top.

A field that a later version adds to an answer has a default: the gateway may be of an earlier one.
"""

from typing import Annotated, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from adaspa_api.report import AttentionReport, JobError, TokenCount
from adaspa_api.words import TERMINAL, End, JobStatus, Open, OutputFormat, Phase, Priority, Quality, StepKind

Variant = Literal["video", "thumbnail", "spritesheet"]
EXAMPLE: JsonDict = {
    "prompt": "a large yellow star moves right on a navy background",
    "model": "demo",
    "steps": 24,
    "seed": 7,
}
MAX_URL_CHARS = 2048
WebhookUrl = Annotated[
    str | None,
    Field(
        max_length=MAX_URL_CHARS,
        description="An https URL that gets the event of the job's end, signed: see `webhooks`. It is shown nowhere.",
    ),
]


class VideoCreate(BaseModel):
    """What ``POST /videos`` takes; only the prompt is required. ``GET /models`` tells what a model allows."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": EXAMPLE})

    prompt: str = Field(description="What the video shows.")
    model: str | None = Field(default=None, description="Default: the first of GET /models.")
    size: str | None = Field(default=None, description="WIDTHxHEIGHT in pixels.")
    seconds: str | float | None = Field(
        default=None, description="Length of the clip; it has to come out at an allowed number of frames."
    )
    num_frames: int | None = None
    fps: int | None = Field(default=None, description="Frames per second.")
    steps: int | None = Field(default=None, description="Denoising steps.")
    guidance_scale: float | None = None
    negative_prompt: str | None = Field(default=None, description="What the video does not show.")
    seed: int | None = Field(default=None, description="The same seed gives the same video; default: drawn.")
    quality: str | None = Field(
        default=None, description=f"AdaSpa's preset: {', '.join(Quality)}. Default: the model's own settings."
    )
    sparsity: float | None = Field(
        default=None, description="Instead of a preset: share of the attention blocks that sparse steps leave out."
    )
    retained_mass: float | None = Field(
        default=None, description="Instead of a preset: share of the attention mass that sparse steps keep."
    )
    warmup: int | None = Field(default=None, description="Instead of a preset's: dense steps at the start.")
    output_format: str | None = Field(
        default=None, description=f"The video's file: {', '.join(OutputFormat)}. Default: the model's first."
    )
    n: int | None = Field(
        default=None,
        description="So many videos, with this seed and those that follow it, all accepted or none. The answer is then "
        "a list, also for 1.",
    )
    priority: Literal["interactive", "bulk"] | None = Field(
        default=None,
        description="The queue to wait in. Bulk jobs get a share of the workers while interactive ones wait. "
        "Default: bulk if the request is much more work than the model's default one, which may not be interactive.",
    )
    webhook_url: WebhookUrl = None


class VideoFields(TypedDict, total=False):
    """What may be asked beside the prompt; ``models`` tells what each model takes."""

    model: str
    size: str
    seconds: str | float
    num_frames: int
    fps: int
    steps: int
    guidance_scale: float
    negative_prompt: str
    seed: int
    quality: Literal["exact", "quality", "balanced", "fast"]
    sparsity: float
    retained_mass: float
    warmup: int
    output_format: Literal["mp4", "webm", "gif"]
    priority: Literal["interactive", "bulk"]
    webhook_url: str


class VideoRemix(BaseModel):
    """What ``POST /videos/{id}/remix`` takes."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"prompt": "a small red star moves left"}})

    prompt: str = Field(description="What the new video shows; everything else, the seed included, stays.")
    webhook_url: WebhookUrl = None


class Video(BaseModel):
    """A video job."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Open[JobStatus]
    progress: int = Field(ge=0, le=100, description="Percent; 100 only when completed.")
    prompt: str
    seconds: str = Field(description="Length of the clip.")
    size: str
    created_at: int
    completed_at: int | None = Field(description="When the job ended, however it ended.")
    expires_at: int | None = Field(description="When the job and its files are removed.")
    error: JobError | None
    remixed_from_video_id: str | None = Field(description="The video that this one was remixed from.")

    num_frames: int
    fps: int
    steps: int
    guidance_scale: float
    negative_prompt: str | None
    seed: int
    quality: Open[Quality] | None
    sparsity: float | None
    retained_mass: float | None
    warmup: int | None
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
