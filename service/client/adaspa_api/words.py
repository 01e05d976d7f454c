"""Enumerations of the API: job status, error codes, formats, presets."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import PlainSerializer, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

StepKind = Literal["dense", "search", "sparse"]
Phase = Literal["queued", "loading", "encoding_prompt", "denoising", "decoding", "uploading"]
"""Phase of an unfinished job."""
End = Literal["completed", "failed", "cancelled"]
"""End of a job; same name as its final status."""


class JobStatus(StrEnum):
    """Status of a job: queued, in_progress, then completed, failed or cancelled.

    A job goes back from in_progress to queued if its worker is lost or stops.
    """

    queued = "queued"
    in_progress = "in_progress"
    completed = "completed"
    failed = "failed"
    cancelled = "cancelled"


class Priority(StrEnum):
    """Queues of each model."""

    interactive = "interactive"
    """Short jobs that somebody is waiting for."""
    bulk = "bulk"
    """Long or patient jobs: they get a share of the workers, or all of them while no interactive job waits."""


class Kind(StrEnum):
    """Kind of an input file."""

    image = "image"
    video = "video"
    audio = "audio"

    @property
    def one(self) -> str:
        """Name of the kind with its article."""
        return {Kind.image: "an image", Kind.video: "a video", Kind.audio: "a sound"}[self]

    @property
    def taken(self) -> str:
        """Description of the files that are accepted."""
        return {
            Kind.image: "a JPEG, PNG, WebP or AVIF image",
            Kind.video: "an MP4, MOV, MKV or WebM video in H.264, H.265, VP8, VP9 or AV1",
            Kind.audio: "a WAV, FLAC, MP3, M4A, AAC or OGG sound (Opus or Vorbis)",
        }[self]


class Role(StrEnum):
    """Use that a video makes of an input: a place in it for an image or a video, or a reference."""

    first = "first"
    """First frame."""
    last = "last"
    """Last frame."""
    start = "start"
    """Video to continue: the new one begins with its last frames."""
    reference = "reference"
    """Person, animal or thing to show in the video; it is no frame of it."""
    audio = "audio"
    """Voice or music for the video's sound to follow; it is not the video's sound itself."""

    @property
    def kind(self) -> Kind:
        """Kind of input that has this role."""
        return {Role.start: Kind.video, Role.audio: Kind.audio}.get(self, Kind.image)

    @property
    def variant(self) -> str:
        """Name of its file among the files of a job."""
        if not self.is_in_frame:
            return f"reference_{self.kind}"
        return f"{self}_video" if self.kind is Kind.video else f"{self}_frame"

    @property
    def is_in_frame(self) -> bool:
        """True if it becomes part of the video, whose shape it then has."""
        return self not in (Role.reference, Role.audio)


class Fit(StrEnum):
    """Method of fitting an image of another shape to the video's size."""

    cover = "cover"
    """Fill the frame and crop two sides evenly."""
    contain = "contain"
    """Keep the whole image and add black bars at two sides."""


class Task(StrEnum):
    """Kind of input that a model generates a video from."""

    text_to_video = "text_to_video"
    """The prompt alone."""
    image_to_video = "image_to_video"
    """The prompt and the first frame."""
    first_last_frame = "first_last_frame"
    """The prompt, the first frame and the last frame."""
    video_continuation = "video_continuation"
    """The prompt and a video to continue."""
    reference_to_video = "reference_to_video"
    """The prompt and an image of a person, animal or thing to show."""
    reference_audio_to_video = "reference_audio_to_video"
    """The prompt, such an image, and a voice or music to follow."""

    @classmethod
    def of(cls, roles: Iterable[Role]) -> "Task":
        """Return the task of a request with inputs of these roles. Raises KeyError if there is none."""
        return BY_ROLES[frozenset(roles)]

    @property
    def roles(self) -> frozenset[Role]:
        """Roles that the task requires an image, a video or a sound for."""
        return next(roles for roles, task in BY_ROLES.items() if task is self)


BY_ROLES = {
    frozenset[Role](): Task.text_to_video,
    frozenset({Role.first}): Task.image_to_video,
    frozenset({Role.first, Role.last}): Task.first_last_frame,
    frozenset({Role.start}): Task.video_continuation,
    frozenset({Role.reference}): Task.reference_to_video,
    frozenset({Role.reference, Role.audio}): Task.reference_audio_to_video,
}


TERMINAL = frozenset({JobStatus.completed, JobStatus.failed, JobStatus.cancelled})


class ErrorCode(StrEnum):
    """Code of the reason why a job failed."""

    generation_failed = "generation_failed"
    """The pipeline raised an error."""
    out_of_memory = "out_of_memory"
    """The GPU or the host ran out of memory."""
    model_unavailable = "model_unavailable"
    """The model's files are missing or broken."""
    storage_unavailable = "storage_unavailable"
    """The video's files could not be written to storage."""
    not_finite = "not_finite"
    """Denoising or decoding produced NaN or infinite values; another seed or configuration may work."""
    blank_clip = "blank_clip"
    """Most frames are a single colour, or only black and white, and the service is set to fail such clips."""
    disk_full = "disk_full"
    """The worker's disk is full."""
    worker_lost = "worker_lost"
    """The worker was lost on every allowed attempt."""
    device_failed = "device_failed"
    """The GPU reported an error on every worker that tried."""
    time_limit = "time_limit"
    """The job reached its time limit."""
    queue_timeout = "queue_timeout"
    """No worker took the job within the queue's time limit."""
    model_not_served = "model_not_served"
    """No worker started to serve the job's queue in time."""
    record_damaged = "record_damaged"
    """The job's record in Redis is damaged."""


class OutputFormat(StrEnum):
    """File formats of videos, with their content types. The worker writes each in a module of the same name."""

    content_type: str

    def __new__(cls, name: str, content_type: str) -> Self:
        """Make a format with its content type."""
        word = str.__new__(cls, name)
        word._value_, word.content_type = name, content_type
        return word

    mp4 = "mp4", "video/mp4"
    webm = "webm", "video/webm"
    gif = "gif", "image/gif"
    webp = "webp", "image/webp"

    @property
    def holds_sound(self) -> bool:
        """True if the format can hold sound; animated images cannot."""
        return self.content_type.startswith("video/")

    @property
    def max_fps(self) -> int | None:
        """Highest frame rate that browsers play; None means no limit.

        Chromium, Firefox and WebKit show a frame of an animated image for 100 ms if it says 10 ms or less. A GIF's
        frames last whole hundredths of a second, a WebP's whole thousandths.
        """
        return {"gif": 50, "webp": 90}.get(self)


class Quality(StrEnum):
    """AdaSpa's presets, from most to least attention computed: ``exact`` computes all of it."""

    exact = "exact"
    quality = "quality"
    balanced = "balanced"
    fast = "fast"


def _or_as_it_is(value: Any, known: ValidatorFunctionWrapHandler) -> Any:
    try:
        return known(value)
    except ValidationError:
        if isinstance(value, str):
            return value
        raise


W = TypeVar("W")
Open = Annotated[W, WrapValidator(_or_as_it_is), PlainSerializer(lambda value: value)]
"""An enumeration that later versions may extend: unknown values are kept as strings."""
