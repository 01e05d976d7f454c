"""How long a video is expected to take: the answer of ``POST /videos/estimate``."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from adaspa_api.fields import EXAMPLE, Row, VideoCreate
from adaspa_api.limits import Text
from adaspa_api.words import Open, Priority, Quality

ASKED: JsonDict = {"model": "demo", "steps": 24, "quality": "balanced"}


class VideoEstimate(VideoCreate):
    """What ``POST /videos/estimate`` takes: the fields of ``POST /videos``, of which none is required."""

    model_config = ConfigDict(json_schema_extra={"example": ASKED})

    prompt: Annotated[str, Row(Text(least=1), "Prompt")] = str(EXAMPLE["prompt"])
    """Has no part in the estimate."""


class Measured(BaseModel):
    """The completed jobs that an estimate was measured by: of the same model and preset."""

    jobs: int
    size: str
    num_frames: int
    steps: int = Field(description="Of the latest of them.")
    scaled: bool = Field(
        description="Whether none of this size and length was measured. The nearest ones are scaled by pixels and "
        "frames then, which is too little for larger clips: attention grows faster."
    )


class Expectation(BaseModel):
    """How long a video of one preset is expected to take."""

    estimated_seconds: float | None = Field(
        description="Seconds from its beginning on a worker to its end, without the loading of the model; null if "
        "nothing like it was measured."
    )
    denoising_seconds: float | None = Field(description="The part of it that is the denoising.")
    measured: Measured | None = Field(description="What it was measured by.")
    reason: str | None = Field(description="Why there is no estimate.")


class Estimate(Expectation):
    """How long a video is expected to take, by what this service has measured."""

    object: Literal["video.estimate"] = "video.estimate"
    model: str
    size: str
    num_frames: int
    fps: int
    steps: int
    quality: Open[Quality] | None
    priority: Open[Priority] = Field(description="The queue that it would wait in.")
    starts_in_seconds: float | None = Field(
        description="When a worker is expected to begin it, if it were submitted now; null if no worker serves the "
        "queue, or no job of the model was timed."
    )
    workers: int = Field(description="Those that serve the queue now.")
    qualities: dict[str, Expectation] = Field(
        description="The same request with each of the model's presets, and as `default` with the model's own settings."
    )
