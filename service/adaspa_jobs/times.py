"""Times of completed jobs, and what a job like them is expected to take."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self

from adaspa_api.fields import Kept, rows
from adaspa_api.words import Quality
from pydantic import BaseModel, ValidationError
from redis import Redis

from adaspa_jobs.job import JobParams
from adaspa_jobs.scripts import PREFIX, reaching

OWN_SETTINGS = "default"
"""Instead of a preset: the model's own settings."""
PRESETS = (OWN_SETTINGS, *Quality)
LATEST = 10
"""Maximum number of jobs for an estimate's median: a worker's first clip and an earlier GPU tell little."""


class Timed(BaseModel):
    """Time that a completed job took, in seconds."""

    width: int
    height: int
    num_frames: int
    steps: int
    guided: bool
    """True if its guidance scale was over 1, which for most models makes two forwards a step."""
    denoising: float
    rest: float
    """Seconds for texts, decoding and upload; loading the model does not count."""

    @property
    def pixels(self) -> int:
        """Number of pixels of all frames."""
        return self.width * self.height * self.num_frames

    @classmethod
    def of(cls, params: JobParams, timings: dict[str, float]) -> Self | None:
        """Sum up what a job took, by its seconds for each phase; None if its denoising was not timed."""
        if "denoising" not in timings:
            return None
        rest = sum(timings.get(phase, 0.0) for phase in ("encoding_prompt", "decoding", "uploading"))
        return cls(
            width=params.width,
            height=params.height,
            num_frames=params.num_frames,
            steps=params.steps,
            guided=params.guidance_scale > 1,
            denoising=timings["denoising"],
            rest=round(rest, 3),
        )


@dataclass(frozen=True)
class Expected:
    """Time that a job is expected to take once a worker begins it, in seconds."""

    seconds: float
    denoising: float
    """Share of the denoising in it, in seconds."""
    jobs: int
    """Completed jobs that it was measured by."""
    nearest: Timed
    """Latest of the jobs behind it."""


def preset_of(params: JobParams) -> str | None:
    """Name the jobs whose times tell of this one: its preset, or ``default``; None for settings by hand."""
    if any(row.by_hand and getattr(params, name) is not None for name, row in rows(Kept).items()):
        return None
    return params.quality or OWN_SETTINGS


def expected(params: JobParams, timed: Sequence[Timed]) -> Expected | None:
    """Estimate what a job will take.

    The jobs whose frames have nearly as many pixels in all tell it; steps and pixels scale it. Attention grows faster
    than the number of pixels, so a larger clip takes longer than what was measured with a smaller one says.

    Args:
        params: of the job.
        timed: completed jobs of its model and preset, the latest first.

    Returns:
        None if none of them is guided as this one is.
    """
    asked = params.width * params.height * params.num_frames
    alike = [job for job in timed if job.guided == (params.guidance_scale > 1)]
    if not alike:
        return None
    nearest = min((job.pixels for job in alike), key=lambda pixels: abs(math.log(pixels / asked)))
    latest = [job for job in alike if job.pixels == nearest][:LATEST]
    scale = asked / nearest
    denoising = median(job.denoising / job.steps for job in latest) * params.steps * scale
    return Expected(denoising + median(job.rest for job in latest) * scale, denoising, len(latest), latest[0])


class Times:
    """Part of a JobStore that knows what completed jobs took."""

    client: Redis

    def times(self, model: str) -> dict[str, list[Timed]]:
        """Return the model's latest completed jobs by preset, and as ``default`` by its own settings; newest first."""
        with reaching(), self.client.pipeline(transaction=False) as pipe:
            for preset in PRESETS:
                pipe.lrange(f"{PREFIX}times:{model}:{preset}", 0, -1)
            found = pipe.execute()
        return {preset: _readable(texts) for preset, texts in zip(PRESETS, found, strict=True)}


def _readable(texts: list[bytes]) -> list[Timed]:
    """Return the times that this version can read; estimates ignore the others."""
    found = []
    for text in texts:
        try:
            found.append(Timed.model_validate_json(text, extra="ignore"))
        except ValidationError:  # of a later version
            continue
    return found
