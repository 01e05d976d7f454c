"""Views of jobs and models for clients."""

from dataclasses import dataclass
from typing import Any

from adaspa_api.limits import seconds_text
from adaspa_api.models import LoraOffer, Model
from adaspa_api.videos import Video, VideoInput
from adaspa_api.words import JobStatus
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.fields import json_schema
from adaspa_jobs.job import Input, Job
from pydantic import BaseModel


@dataclass(frozen=True)
class QueuePosition:
    """Position of a queued job."""

    position: int
    """1 is next."""
    starts_in: float | None
    """Seconds; None: no worker runs, or no job of the model has been timed."""
    workers: int
    """Number of workers that serve its queue."""


def video(job: Job, place: QueuePosition | None, estimated: float | None = None) -> Video:
    """Show a job; ``place`` is a queued one's, ``estimated`` the seconds that an unfinished one takes."""
    asked, running = job.params, job.status is JobStatus.in_progress
    return Video.model_validate(
        shared(job.progress, Video)
        | shared(asked, Video)
        | shared(job, Video)
        | {
            "task": asked.task,
            "inputs": [shared(each, VideoInput) | {"url": input_url(job, each)} for each in asked.inputs],
            "progress": job.percent,
            "phase": job.phase,
            "seconds": seconds_text(asked.num_frames / asked.fps),
            "size": f"{asked.width}x{asked.height}",
            "remixed_from_video_id": asked.remixed_from,
            "queue_position": place.position if place else None,
            "workers": place.workers if place else None,
            "starts_in_seconds": place.starts_in if place else None,
            "estimated_seconds": estimated,
            "eta_seconds": job.progress.eta_seconds if running else None,
            "preview_url": preview_url(job) if running else None,
            "attention": job.report,
            "content_type": file.content_type if (file := job.artifacts.get("video")) else None,
            "has_audio": file.has_audio if file else None,
        }
    )


def model(spec: ModelSpec, created: int, *, waiting: int, running: int, workers: int) -> Model:
    """Show a catalog entry, and how busy the model is."""
    own = {"created": created, "default_size": spec.sizes[0], "default_fps": spec.fps, "parameters": json_schema(spec)}
    own |= {"loras": [shared(lora, LoraOffer) for lora in spec.loras]}
    busy = {"waiting": waiting, "running": running, "workers": workers}
    return Model.model_validate(shared(spec, Model) | own | busy)


def shared(source: BaseModel, view: type[BaseModel]) -> dict[str, Any]:
    """Copy from the source the fields that both have."""
    return {name: getattr(source, name) for name in view.model_fields.keys() & type(source).model_fields.keys()}


def input_url(job: Job, given: Input) -> str:
    """Return the address of an input."""
    return f"/v1/videos/{job.id}/content?variant={given.role.variant}"


def preview_url(job: Job) -> str | None:
    """Return the address of the latest preview; each preview has its own."""
    step = job.progress.preview_step
    return None if step is None else f"/v1/videos/{job.id}/preview?step={step}"
