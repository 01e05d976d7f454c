"""The words of the API: where a job stands, why it failed, what it may be asked for."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import PlainSerializer, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

StepKind = Literal["dense", "search", "sparse"]
Phase = Literal["queued", "loading", "encoding_prompt", "denoising", "decoding", "uploading"]
"""What a job that has not ended is doing."""
End = Literal["completed", "failed", "cancelled"]
"""How it ended; of the same name as its status."""


class JobStatus(StrEnum):
    """queued -> in_progress -> completed | failed | cancelled; back to queued when a worker is lost or stops."""

    queued = "queued"
    in_progress = "in_progress"
    completed = "completed"
    failed = "failed"
    cancelled = "cancelled"


class Priority(StrEnum):
    """Which of its model's two queues a job waits in."""

    interactive = "interactive"
    """Short jobs, which somebody waits for."""
    bulk = "bulk"
    """Long or patient ones: they get a share of the workers, and all of them while nothing interactive waits."""


class Role(StrEnum):
    """What an image of a request is to the video."""

    first = "first"
    """It begins with it."""
    last = "last"
    """It ends with it."""


class Fit(StrEnum):
    """How an image of another shape gets the video's size."""

    cover = "cover"
    """It covers it, and is cut off evenly at two sides."""
    contain = "contain"
    """It is contained in it whole, with black at two sides."""


class Task(StrEnum):
    """What a model is asked to make a video of."""

    text_to_video = "text_to_video"
    """The prompt alone."""
    image_to_video = "image_to_video"
    """The prompt and the first frame."""
    first_last_frame = "first_last_frame"
    """The prompt, the first frame and the last one."""

    @classmethod
    def of(cls, roles: Iterable[Role]) -> "Task":
        """The task of a request with images of these roles. Raises KeyError: there is none."""
        return BY_ROLES[frozenset(roles)]

    @property
    def roles(self) -> frozenset[Role]:
        """The images that it takes, all of them."""
        return next(roles for roles, task in BY_ROLES.items() if task is self)


BY_ROLES = {
    frozenset[Role](): Task.text_to_video,
    frozenset({Role.first}): Task.image_to_video,
    frozenset({Role.first, Role.last}): Task.first_last_frame,
}


TERMINAL = frozenset({JobStatus.completed, JobStatus.failed, JobStatus.cancelled})


class ErrorCode(StrEnum):
    """Why a job failed."""

    generation_failed = "generation_failed"
    """The pipeline raised an error."""
    out_of_memory = "out_of_memory"
    """The device or the host ran out of memory."""
    model_unavailable = "model_unavailable"
    """The model's files are missing or broken."""
    storage_unavailable = "storage_unavailable"
    """The files could not be written."""
    not_finite = "not_finite"
    """The denoising or the decoding came to values that are no numbers; another seed or configuration may not."""
    blank_clip = "blank_clip"
    """Most frames came out in one colour, or fully black and white, and the operator has such clips fail."""
    disk_full = "disk_full"
    """The worker's own disk has no room for the video's files."""
    worker_lost = "worker_lost"
    """Every allowed attempt lost its worker."""
    device_failed = "device_failed"
    """The GPU reported an error, on every worker that tried."""
    time_limit = "time_limit"
    """The job ran for as long as jobs of its model may."""
    queue_timeout = "queue_timeout"
    """No worker took the job for as long as jobs may wait."""
    model_not_served = "model_not_served"
    """No worker ran that serves the job's queue, for as long as jobs wait for one to start."""


class OutputFormat(StrEnum):
    """The video's file. Each has its content type over HTTP; the worker has a module of its name that writes it."""

    content_type: str

    def __new__(cls, name: str, content_type: str) -> Self:
        """Make the word of a format."""
        word = str.__new__(cls, name)
        word._value_, word.content_type = name, content_type
        return word

    mp4 = "mp4", "video/mp4"
    webm = "webm", "video/webm"
    gif = "gif", "image/gif"
    webp = "webp", "image/webp"

    @property
    def holds_sound(self) -> bool:
        """Whether it has room for one: moving pictures have none."""
        return self.content_type.startswith("video/")


class Quality(StrEnum):
    """Names of AdaSpa's presets: ever less of the attention is computed, from all of it (``exact``) down."""

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
"""Words of which a later version may know more: one that this version does not know is kept as the string it is."""
