"""Usage by day and model: the response of ``GET /usage``."""

from typing import Literal

from pydantic import BaseModel, Field


class UsageRow(BaseModel):
    """Usage of one model on one day."""

    date: str = Field(description="Day in UTC, such as `2026-11-28`.")
    model: str
    completed: int = Field(default=0, description="Number of jobs completed on that day.")
    failed: int = 0
    cancelled: int = 0
    gpu_seconds: float = Field(
        default=0.0,
        description="Seconds that workers ran the jobs, times the model's GPUs. Each attempt counts on the day it "
        "ended, even if it failed.",
    )


class Usage(BaseModel):
    """Usage of the caller's API key."""

    object: Literal["usage"] = "usage"
    days: int = Field(description="Number of days covered, including today.")
    jobs: int = Field(description="Number of jobs that ended, with any status.")
    gpu_seconds: float
    data: list[UsageRow] = Field(description="Usage by day and model, latest day first.")
