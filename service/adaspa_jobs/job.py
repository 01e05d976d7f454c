"""Job record: what was asked, where it stands, and what came of it.

Gateways and workers of two versions share one Redis during a rolling update, so the record has a version of its own;
docs/job_records.md says what to do when it changes.
"""

from typing import cast

from adaspa_api.fields import Settled
from adaspa_api.report import AttentionReport, JobError, TokenCount
from adaspa_api.words import TERMINAL, End, JobStatus, OutputFormat, Phase, Priority, Role, StepKind, Task
from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from adaspa_jobs.fields import of_rows

SCHEMA_VERSION = 1
"""Newest record that this version can run."""
OPEN_OWNER = "open"
"""Owner of every job of a service that asks for no key."""
BOOTSTRAP_OWNER = "bootstrap"
"""Owner of the jobs that ADASPA_BOOTSTRAP_KEY creates."""


class Artifact(BaseModel):
    """One file of a job in storage."""

    key: str
    content_type: str
    bytes: int
    sha256: str
    has_audio: bool = False
    """True for a video with sound."""


class Input(Artifact):
    """An input of a request: an image as PNG, the end of a video, or the beginning of a sound.

    A first or last frame, and the end of a video, have the size of the video; a reference image has its own shape.

    The jobs of one request, and remixes of them, share it.
    """

    role: Role
    width: int | None = None
    height: int | None = None
    frames: int | None = 1
    seconds: float | None = None


@of_rows
class JobParams(Settled):
    """Parameters of a job, with every default filled in.

    A parameter that came after version 1 has a default and names its version: ``since`` in its row, or
    ``Field(default=None, json_schema_extra={"since": 2})`` for one that no client names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int
    height: int
    output_format: OutputFormat = OutputFormat.mp4
    remixed_from: str | None = None
    """Job that has the same parameters but for the prompt."""
    inputs: tuple[Input, ...] = ()
    """Images, videos and sounds that the video is made of, one of a role."""

    @property
    def task(self) -> Task:
        """Task that the model is asked for."""
        return Task.of(each.role for each in self.inputs)

    @property
    def inputs_folder(self) -> str | None:
        """Folder below ``inputs/`` in storage that these lie in; None without any."""
        return self.inputs[0].key.split("/")[1] if self.inputs else None

    @property
    def needs(self) -> int:
        """Lowest version that can run this: that of the newest parameter which is not left at its default."""
        fields = type(self).model_fields.items()
        return max((since(field) for name, field in fields if getattr(self, name) != field.default), default=1)

    @property
    def identity(self) -> str:
        """Digest that two jobs share, in all versions that can run them, if and only if the same was asked."""
        return self.model_dump_json(exclude_defaults=True)


def since(field: FieldInfo) -> int:
    """Return the version of the record in which a parameter came."""
    extra = field.json_schema_extra
    return int(str(extra["since"])) if isinstance(extra, dict) and "since" in extra else 1


class Progress(BaseModel):
    """Progress of a job."""

    phase: Phase = "queued"
    step: int = 0
    """Finished denoising steps."""
    steps: int = 0
    resumed_from_step: int | None = None
    """Step of the checkpoint that this attempt began with; None if it began at the start."""
    step_kind: StepKind | None = None
    """Kind of the last finished step."""
    eta_seconds: float | None = None
    """Seconds that are left of the denoising, from the steps measured so far."""
    preview_step: int | None = None
    """Step whose preview can be had."""
    prompt_tokens: TokenCount | None = None
    """Once the texts are encoded."""
    negative_prompt_tokens: TokenCount | None = None
    """Once the texts are encoded, if there is a negative prompt."""


class Labels(BaseModel):
    """Labels that a client gives a job for itself."""

    metadata: dict[str, str] = {}
    """Pairs of texts."""
    user: str | None = None
    """Client's name for the end user."""


class Job(Labels):
    """A job as the store holds it. Times are Unix seconds by the store's clock."""

    id: str
    owner: str = OPEN_OWNER
    """Id of the API key that created it."""
    status: JobStatus
    params: JobParams
    priority: Priority = Priority.interactive
    cost: float = 1.0
    """Work, in units of the model's default request."""
    created_at: int
    started_at: int | None = None
    """Time at which the first attempt began."""
    completed_at: int | None = None
    """Time at which the job ended, however it ended."""
    expires_at: int | None = None
    """Time at which the record and its files are removed."""
    progress: Progress = Progress()
    attempt: int = 0
    """Number of attempts that began."""
    token: str = ""
    """Token of the latest attempt, which fences it and names its folder in storage: its number and a nonce."""
    lost_attempts: int = 0
    """Attempts whose lease ran out."""
    ran_ms: int = 0
    """Milliseconds that earlier attempts ran."""
    trace: str | None = None
    """Trace context of the request that created it, as W3C's ``traceparent``."""
    worker_errors: int = 0
    """Attempts that failed by their worker's fault."""
    worker: str | None = None
    cancel_requested: bool = False
    discarded: bool = False
    """Deleted by its owner or expired: no longer shown, and removed as soon as no worker holds it."""
    error: JobError | None = None
    report: AttentionReport | None = None
    timings: dict[str, float] = {}
    """Seconds by phase."""
    warnings: list[str] = []
    """Warnings: what is odd about the clip."""
    artifacts: dict[str, Artifact] = {}
    """Files by variant: video, thumbnail, spritesheet."""
    schema_version: int = 1
    """Lowest version that can run the job; a worker of an earlier one leaves it to others."""

    @property
    def phase(self) -> Phase | End:
        """Phase of a running job, or the status of another. ``progress`` tells how far it had come."""
        return cast(End, self.status.value) if self.status in TERMINAL else self.progress.phase

    @property
    def percent(self) -> int:
        """0 to 100; 100 only when completed. The denoising has the share from 2 to 95."""
        if self.status is JobStatus.completed:
            return 100
        return percent(self.progress)


def percent(progress: Progress) -> int:
    """Share of the work done, 0 to 99."""
    if progress.phase == "denoising":
        return 2 + 93 * progress.step // max(progress.steps, 1)
    return {"queued": 0, "loading": 0, "encoding_prompt": 1, "decoding": 96, "uploading": 99}[progress.phase]
