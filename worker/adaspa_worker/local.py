"""Clips without any service: ``python -m adaspa_worker.local`` runs jobs in this process, one after the other.

Standard input is a JSON array of ``{"params": JobParams, "output": path, "images": folder}``, all of one model.
Standard output has a JSON object a line: ``{"job": n, "progress": Progress}`` as a job moves on, ``{"job": n,
"attention": AttentionReport, "timings": {...}, "warnings": [...]}`` when its file is there, ``{"error": JobError}`` as
the last line when one fails.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adaspa_jobs.catalog import Catalog, CatalogError
from adaspa_jobs.job import JobParams, Progress
from adaspa_jobs.settings import SettingsError, get_settings
from pydantic import BaseModel, TypeAdapter

from adaspa_worker import allocator, kernel_cache
from adaspa_worker.context import Context, Made
from adaspa_worker.course import Course
from adaspa_worker.failure import describe
from adaspa_worker.offer import check
from adaspa_worker.provenance import Provenance
from adaspa_worker.source import ModelUnavailable, folder_of

Tell = Callable[[dict[str, Any]], None]


class LocalJob(BaseModel):
    """One clip to make."""

    params: JobParams
    output: Path
    images: Path | None = None
    """Folder that holds the files of the job under their keys."""


def make(job: LocalJob, course: Course, engine: Any) -> Made:
    """Write a job's file, and return what was made. The file is there only when it is whole."""
    from adaspa_worker import tasks  # noqa: PLC0415  slow to import, with all it needs

    with TemporaryDirectory(prefix=f".part-{job.output.name}-", dir=job.output.parent) as folder:
        inputs = {each.role: job.images / each.key for each in job.params.inputs} if job.images else {}
        context = Context(
            params=job.params,
            engine=engine,
            folder=Path(folder),
            course=course,
            on_step=course.step,
            inputs=inputs,
            fail_blank=get_settings().fail_blank,
            provenance=Provenance.of(get_settings()),
        )
        try:
            made = tasks.run(context)
        finally:
            engine.reset()
        made.files["video"].replace(job.output)
    return made


def make_all(jobs: list[LocalJob], tell: Tell) -> None:
    """Load the model of the jobs, and make them.

    Raises:
        ModelUnavailable: it is not in the catalog, or does not load.
        ProvenanceError: their files are to be signed, and cannot be.
    """
    courses = [Course(job.params, partial(tell_progress, tell, number)) for number, job in enumerate(jobs)]
    with courses[0].phase("loading"):
        name = jobs[0].params.model
        spec = Catalog.load(get_settings().catalog).get(name)
        if spec is None:
            raise ModelUnavailable(f"model {name} is not in the catalog")
        folder = folder_of(spec)
        from adaspa_worker.pipeline import load  # noqa: PLC0415  torch, which takes its seconds

        check(spec, folder)
        Provenance.of(get_settings()).check()
        engine = load(spec, folder)
    for number, (job, course) in enumerate(zip(jobs, courses, strict=True)):
        made = make(job, course, engine)
        report = made.report.model_dump(mode="json")
        tell({"job": number, "attention": report, "timings": course.timings, "warnings": made.warnings})


def tell_progress(tell: Tell, number: int, progress: Progress) -> None:
    tell({"job": number, "progress": progress.model_dump(exclude_none=True)})


def main() -> None:
    """Read the jobs, run them, and end with status 1 if one fails."""
    # What the libraries print goes to standard error: the lines on standard output are for a program.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(event: dict[str, Any]) -> None:
        print(json.dumps(event), file=out, flush=True)

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what is half written is removed
    jobs = TypeAdapter(list[LocalJob]).validate_json(sys.stdin.buffer.read())
    try:
        kernel_cache.use(get_settings())
        allocator.use()
        make_all(jobs, tell)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (SettingsError, CatalogError) as error:
        raise SystemExit(str(error)) from error
    except Exception as error:
        tell({"error": describe(error, to_operator=True).model_dump(mode="json")})
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
