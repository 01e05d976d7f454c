"""The seconds that a job's phases take: measured where they were, and saying so where they were not."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

PHASES = ("encoding_prompt", "decoding", "uploading")
"""What a job does beside its denoising; the model is loaded once."""


class Figure(BaseModel):
    """A number and where it comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float = Field(gt=0)
    basis: Literal["measured", "computed", "assumed"]
    source: str = Field(min_length=1)


class Seconds(BaseModel):
    """Of one denoising step by its kind, and of the phases around them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dense: Figure
    search: Figure
    sparse: Figure
    loading: Figure
    encoding_prompt: Figure
    decoding: Figure
    uploading: Figure


class ModelTimes(BaseModel):
    """One model at one size on one kind of GPU."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    title: str
    steps: int = Field(ge=1)
    warmup: int = Field(ge=0)
    """Dense steps before the first search."""
    searches: int = Field(ge=0)
    video_megabytes: Figure
    checkpoint_megabytes: Figure
    seconds: Seconds

    def job_seconds(self, sparse: bool = True) -> float:
        """A job on a worker that has the model loaded, with AdaSpa or with dense attention alone."""
        step = self.seconds
        around = sum(getattr(step, phase).value for phase in PHASES)
        if not sparse:
            return float(around + self.steps * step.dense.value)
        rest = self.steps - self.warmup - self.searches
        denoising = self.warmup * step.dense.value + self.searches * step.search.value + rest * step.sparse.value
        return float(around + denoising)


class Limits(BaseModel):
    """What the parts that all workers share can bear."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    redis_cpu_share: Figure
    redis_connections: Figure
    redis_memory_gigabytes: Figure
    storage_gigabits: Figure
    """A second."""


class Times(BaseModel):
    """The file: ``phases.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: list[ModelTimes] = Field(min_length=1)
    pod_start: Figure
    """From the decision to start a worker until its process is there."""
    limits: Limits

    @classmethod
    def load(cls, path: Path) -> "Times":
        """Read the file. Raises OSError, pydantic.ValidationError."""
        return cls.model_validate_json(path.read_bytes())
