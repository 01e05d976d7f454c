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


class Group(BaseModel):
    """How many times as fast as one GPU several are at a denoising step of a video that they make together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpus: int = Field(ge=2)
    dense: Figure
    search: Figure
    sparse: Figure


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
    groups: list[Group] = []

    def job_seconds(self, sparse: bool = True, gpus: int = 1) -> float:
        """A job on a worker that has the model loaded, with AdaSpa or with dense attention alone.

        Args:
            gpus: that make the video together: 1, or those of one of ``groups``. Only the steps are faster by them.
        """
        group = None if gpus == 1 else next(group for group in self.groups if group.gpus == gpus)
        counts = {"dense": self.steps}
        if sparse:
            rest = self.steps - self.warmup - self.searches
            counts = {"dense": self.warmup, "search": self.searches, "sparse": rest}
        seconds = sum(getattr(self.seconds, phase).value for phase in PHASES)
        for kind, count in counts.items():
            speed = 1 if group is None else getattr(group, kind).value
            seconds += count * getattr(self.seconds, kind).value / speed
        return float(seconds)


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
