"""What clients send and get: OpenAI's video objects, with our fields on top."""

from typing import Annotated, Literal, Self

from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import (
    AttentionReport,
    Job,
    JobError,
    JobStatus,
    OutputFormat,
    Phase,
    Priority,
    Quality,
    StepKind,
)
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from adaspa_service.gateway.places import Place

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
    status: JobStatus
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
    quality: Quality | None
    sparsity: float | None
    retained_mass: float | None
    warmup: int | None
    output_format: OutputFormat
    phase: Phase = Field(description="What the job is doing, or did last.")
    step: int = Field(description="Finished denoising steps.")
    step_kind: StepKind | None = Field(description="Kind of attention in the last finished step.")
    priority: Priority = Field(description="The queue it waits, or waited, in.")
    queue_position: int | None = Field(
        description="While queued: the place in its queue, 1 is next; null if it is not known yet."
    )
    starts_in_seconds: float | None = Field(
        description="While queued: when a worker is expected to begin it, once jobs of the model have been timed."
    )
    eta_seconds: float | None = Field(description="Seconds left of the denoising, once steps are timed.")
    preview_url: str | None = Field(description="While in progress: a small moving picture of what it is coming to.")
    started_at: int | None
    resumed_from_step: int | None = Field(description="The checkpoint's step that the latest attempt went on from.")
    attempt: int = Field(description="How many times a worker began the job.")
    attention: AttentionReport | None = Field(description="Once completed: what AdaSpa did.")
    timings: dict[str, float] = Field(description="Seconds by phase.")

    @classmethod
    def of(cls, job: Job, place: Place | None) -> Self:
        """The view of a job; ``place`` is a queued one's."""
        asked, running = job.params, job.status is JobStatus.in_progress
        return cls(
            id=job.id,
            model=asked.model,
            status=job.status,
            progress=job.percent,
            prompt=asked.prompt,
            seconds=seconds_text(asked.num_frames / asked.fps),
            size=f"{asked.width}x{asked.height}",
            created_at=job.created_at,
            completed_at=job.completed_at,
            expires_at=job.expires_at,
            error=job.error,
            remixed_from_video_id=asked.remixed_from,
            num_frames=asked.num_frames,
            fps=asked.fps,
            steps=asked.steps,
            guidance_scale=asked.guidance_scale,
            negative_prompt=asked.negative_prompt,
            seed=asked.seed,
            quality=asked.quality,
            sparsity=asked.sparsity,
            retained_mass=asked.retained_mass,
            warmup=asked.warmup,
            output_format=asked.output_format,
            phase=job.progress.phase,
            step=job.progress.step,
            step_kind=job.progress.step_kind,
            priority=job.priority,
            queue_position=place.position if place else None,
            starts_in_seconds=place.starts_in if place else None,
            eta_seconds=job.progress.eta_seconds if running else None,
            preview_url=preview_url(job) if running else None,
            started_at=job.started_at,
            resumed_from_step=job.progress.resumed_from_step,
            attempt=job.attempt,
            attention=job.report,
            timings=job.timings,
        )


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


class Model(BaseModel):
    """A served model and what may be asked of it."""

    id: str
    object: Literal["model"] = "model"
    owned_by: Literal["adaspa-serve"] = "adaspa-serve"
    description: str
    sizes: list[str]
    default_size: str
    frames: list[int]
    default_frames: int
    fps_range: tuple[int, int]
    default_fps: int
    steps_range: tuple[int, int]
    default_steps: int
    guidance_range: tuple[float, float]
    default_guidance: float
    max_prompt_chars: int
    negative_prompt: bool = Field(description="Whether it takes one.")
    prompt_examples: list[str]
    qualities: list[Quality]
    sparsity_range: tuple[float, float]
    retained_mass_range: tuple[float, float]
    warmup_range: tuple[float, float] = Field(description="Share of the steps that may be dense at the start.")
    output_formats: list[OutputFormat] = Field(description="The first is the default.")
    max_batch: int = Field(description="The largest n.")
    waiting: int = Field(description="Jobs in the queue.")
    running: int = Field(description="Jobs in progress.")

    @classmethod
    def of(cls, spec: ModelSpec, waiting: int, running: int) -> Self:
        """The view of a catalog entry."""
        shared = spec.model_dump(include=set(cls.model_fields) & set(ModelSpec.model_fields))
        return cls(**shared, default_size=spec.sizes[0], default_fps=spec.fps, waiting=waiting, running=running)


class ModelList(BaseModel):
    """The served models; the first is the default."""

    object: Literal["list"] = "list"
    data: list[Model]


class Link(BaseModel):
    """An address that needs no key."""

    object: Literal["video.link"] = "video.link"
    url: str
    expires_at: int = Field(description="When it ends: as asked for, or with the API key if that is earlier.")


class Health(BaseModel):
    """The answer of a probe."""

    status: Literal["ok"] = "ok"


def preview_url(job: Job) -> str | None:
    """Where the latest preview is; another one has another address."""
    step = job.progress.preview_step
    return None if step is None else f"/v1/videos/{job.id}/preview?step={step}"


def seconds_text(seconds: float) -> str:
    """Seconds as OpenAI's clients expect them: a string, with three decimals at most."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")
