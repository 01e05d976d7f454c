"""What jobs came to: the answer of ``GET /usage``."""

from typing import Literal

from pydantic import BaseModel, Field


class UsageRow(BaseModel):
    """What an owner's jobs of one model came to on one day."""

    date: str = Field(description="The day in UTC, as `2026-11-28`.")
    model: str
    completed: int = Field(default=0, description="Jobs that ended so on that day.")
    failed: int = 0
    cancelled: int = 0
    gpu_seconds: float = Field(
        default=0.0,
        description="Seconds that workers held the jobs, times the GPUs of the model, by the day on which an attempt "
        "ended: attempts that came to nothing are counted too.",
    )


class Usage(BaseModel):
    """What the jobs of the caller's key came to."""

    object: Literal["usage"] = "usage"
    days: int = Field(description="So many, today included.")
    jobs: int = Field(description="Those that ended, however they did.")
    gpu_seconds: float
    data: list[UsageRow] = Field(description="By day and model, the latest day first.")
