"""What a gateway tells: videos and models. Fields that this version of the client does not know are passed over."""

from typing import Literal, TypedDict

from adaspa_jobs.job import TERMINAL, AttentionReport, JobError, JobStatus
from pydantic import BaseModel

Variant = Literal["video", "thumbnail", "spritesheet"]


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


class Video(BaseModel):
    """A job. Times are Unix seconds."""

    id: str
    model: str
    status: JobStatus
    progress: int
    """Percent; 100 only when completed."""
    prompt: str
    seconds: str
    size: str
    created_at: int
    started_at: int | None = None
    completed_at: int | None = None
    """When it ended, however it ended."""
    expires_at: int | None = None
    error: JobError | None = None
    remixed_from_video_id: str | None = None
    num_frames: int
    fps: int
    steps: int
    guidance_scale: float
    negative_prompt: str | None = None
    seed: int
    quality: str | None = None
    sparsity: float | None = None
    retained_mass: float | None = None
    warmup: int | None = None
    output_format: str = "mp4"
    phase: str
    step: int
    """Finished denoising steps."""
    step_kind: str | None = None
    priority: str | None = None
    queue_position: int | None = None
    """While queued: 1 is next."""
    starts_in_seconds: float | None = None
    eta_seconds: float | None = None
    """Of the denoising, once steps are timed."""
    preview_url: str | None = None
    resumed_from_step: int | None = None
    attempt: int
    attention: AttentionReport | None = None
    """Once completed: what AdaSpa did."""
    timings: dict[str, float] = {}
    """Seconds by phase."""

    @property
    def done(self) -> bool:
        """Whether the job has ended, one way or another."""
        return self.status in TERMINAL


class Page(BaseModel):
    """A page of videos, or those of one request for several."""

    data: list[Video]
    last_id: str | None = None
    has_more: bool


class Model(BaseModel):
    """A served model and what may be asked of it."""

    id: str
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
    negative_prompt: bool = True
    """Whether it takes one."""
    prompt_examples: list[str] = []
    qualities: list[str] = []
    sparsity_range: tuple[float, float] = (0, 0)
    retained_mass_range: tuple[float, float] = (0, 0)
    warmup_range: tuple[float, float] = (0, 0)
    """Share of the steps that may be dense at the start."""
    output_formats: list[str] = []
    max_batch: int = 1
    waiting: int
    running: int
