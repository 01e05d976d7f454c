"""Expected generation time: the request and response of ``POST /videos/estimate``."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from adaspa_api.fields import EXAMPLE, Row, VideoCreate
from adaspa_api.limits import Text
from adaspa_api.words import Open, Priority, Quality

ASKED: JsonDict = {"model": "demo", "steps": 24, "quality": "balanced"}


class VideoEstimate(VideoCreate):
    """Body of ``POST /videos/estimate``: the fields of ``POST /videos``, none of them required."""

    model_config = ConfigDict(json_schema_extra={"example": ASKED})

    prompt: Annotated[str, Row(Text(least=1), "Prompt")] = str(EXAMPLE["prompt"])
    """Ignored: the prompt does not change the estimate."""


class Measured(BaseModel):
    """Completed jobs of the same model and preset that an estimate is based on."""

    jobs: int
    size: str
    num_frames: int
    steps: int = Field(description="Denoising steps of the latest of these jobs.")
    scaled: bool = Field(
        description="True if no job of this size and length was measured. The estimate then scales the nearest jobs by "
        "pixels and frames. It is too low for larger clips, because attention grows faster."
    )


class Expectation(BaseModel):
    """Expected time of a video with one preset."""

    estimated_seconds: float | None = Field(
        description="Expected seconds on a worker from start to finish, without loading the model. Null if no similar "
        "job was measured."
    )
    denoising_seconds: float | None = Field(description="Expected seconds of denoising, part of `estimated_seconds`.")
    measured: Measured | None = Field(description="The jobs that the estimate is based on.")
    reason: str | None = Field(description="Why there is no estimate.")


class Estimate(Expectation):
    """Expected time of a video, based on this service's completed jobs."""

    object: Literal["video.estimate"] = "video.estimate"
    model: str
    size: str
    num_frames: int
    fps: int
    steps: int
    quality: Open[Quality] | None
    priority: Open[Priority] = Field(description="The queue that the job would wait in.")
    starts_in_seconds: float | None = Field(
        description="Expected seconds until a worker would start the job, if submitted now. Null if no worker serves "
        "the queue or no job of the model has been timed."
    )
    workers: int = Field(description="Number of workers that serve the queue now.")
    qualities: dict[str, Expectation] = Field(
        description="The expected time with each of the model's presets. `default` is the model's own settings."
    )
