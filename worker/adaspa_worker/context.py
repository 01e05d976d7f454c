"""Context of a task, given by whoever runs it: an attempt at a job, or a run without any service."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from adaspa_api.report import AttentionReport
from adaspa_api.words import Role, StepKind
from adaspa_jobs.job import JobParams

from adaspa_worker.course import Course
from adaspa_worker.provenance import Provenance

if TYPE_CHECKING:
    from adaspa_worker.pipeline import Engine


@dataclass(frozen=True, kw_only=True)
class Context:
    """Context of a task, given by whoever runs it.

    Args:
        params: what was asked.
        engine: the loaded model's.
        folder: an empty one, for the task's files.
        course: is told of phases and steps.
        inputs: the files of the job's images, or of its video, by what they are to the clip, of its size.
        check: raises if the job has to stop; called wherever it can.
        snapshot: returns what an earlier attempt's denoising goes on from, or None.
        fail_blank: whether a clip that shows nothing fails.
        provenance: what the video says of where it comes from.
        on_step: called after each denoising step with the number of finished steps and the kind of the last one.
    """

    params: JobParams
    engine: "Engine"
    folder: Path
    course: Course
    on_step: Callable[[int, StepKind | None], None]
    inputs: Mapping[Role, Path] = field(default_factory=dict)
    fail_blank: bool = False
    provenance: Provenance = field(default_factory=Provenance)
    check: Callable[[], None] = lambda: None
    snapshot: Callable[[], dict[str, Any] | None] = lambda: None


class Made(NamedTuple):
    """Result of a task."""

    files: dict[str, Path]
    """Files by variant, including ``video``."""
    report: AttentionReport
    has_audio: bool
    """True if the video has a sound."""
    warnings: list[str]
    """Warnings: what is odd about it."""
