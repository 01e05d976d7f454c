"""``--local``: generate clips without a server, in a process of the worker's code, because we import no torch."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from adaspa_api.fields import ROLES, VideoCreate
from adaspa_api.report import JobError
from adaspa_api.words import ErrorCode, JobStatus, Role
from adaspa_client import Video, VideoFields
from adaspa_client.images import is_url
from adaspa_jobs.catalog import Catalog, CatalogError, ModelSpec
from adaspa_jobs.job import OPEN_OWNER, Job, JobParams, Progress
from adaspa_jobs.settings import get_settings
from adaspa_jobs.storage import ObjectStorage

from adaspa_service.cli.progress import Ended, NotCompleted, shown
from adaspa_service.cli.terminal import fail, warn

NEEDED = ("fastapi", "adaspa_worker", "torch", "diffusers")
MODULE = "adaspa_worker.local"


def resolved(prompt: str, number: int, asked: VideoFields, folder: Path | None = None) -> list[JobParams]:
    """Return the jobs that the gateway would create from this request. End the command if the request is invalid.

    Args:
        folder: receives the request's images for as long as the jobs run.
    """
    need(NEEDED, "--local")
    from adaspa_service.errors import ApiError  # noqa: PLC0415  only an install with the gateway has them
    from adaspa_service.gateway.params import batch  # noqa: PLC0415

    try:
        request = VideoCreate.model_validate({"prompt": prompt, "n": number, **asked})
        catalog = Catalog.load(get_settings().catalog)
        jobs = batch(request, catalog)
        if any(getattr(request, name) for name in ROLES):
            assert folder is not None
            jobs = made_of_images(jobs, request, catalog.models[jobs[0].model], folder)
    except (ApiError, CatalogError) as error:
        fail(error)
    return jobs


def made_of_images(jobs: list[JobParams], request: VideoCreate, spec: ModelSpec, folder: Path) -> list[JobParams]:
    """Copy the request's images (files or URLs) to the folder and return the jobs with them. Raises ApiError."""
    from adaspa_service.gateway.body import refused  # noqa: PLC0415
    from adaspa_service.gateway.images import made_of  # noqa: PLC0415
    from adaspa_service.inputs.keep import Inputs  # noqa: PLC0415
    from adaspa_service.inputs.source import InputRefused, Source, from_text, uploaded  # noqa: PLC0415
    from adaspa_service.webhooks.addresses import system_resolve  # noqa: PLC0415

    settings, sources = get_settings(), dict[Role, Source]()
    for name, role in ROLES.items():
        if (given := getattr(request, name)) is None:
            continue
        try:
            most = settings.input_bytes[role.kind]
            url = from_text(BytesIO(given.encode()), role.kind, most) if is_url(given) else None
        except InputRefused as error:
            raise refused(name, role.kind, error) from error
        sources[role] = url or uploaded(BytesIO(Path(given).read_bytes()))
    inputs = Inputs(settings, ObjectStorage(str(folder)), system_resolve)
    try:
        return asyncio.run(made_of(sources, jobs, request, inputs=inputs, spec=spec, owner=OPEN_OWNER))
    finally:
        inputs.close()


def need(modules: tuple[str, ...], what: str) -> None:
    """End the command if a module is not installed."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        fail(f"{what}: {', '.join(missing)} not installed; pip install 'adaspa-serve[local]'")


def generate_here(jobs: list[JobParams], outputs: list[Path], images: Path | None = None, *, quiet: bool) -> Ended:
    """Generate the clips, show their progress, and return the jobs as a server would describe them.

    Args:
        images: folder in which ``resolved`` put the jobs' images.
    """
    ended: dict[int, Video] = {}
    lost = None
    with shown(quiet) as show:
        for event in events(jobs, outputs, images):
            if "error" in event:
                error = JobError.model_validate(event["error"])
                number = next((number for number in range(len(jobs)) if number not in ended), None)
                if number is None:
                    warn(f"all videos were written; after that, {error.message}")
                    break
                ended[number] = described(jobs[number], Progress(), status=JobStatus.failed, error=error)
                lost = NotCompleted(f"{error.message} ({error.code})", ended[number])
                break
            number = event["job"]
            if "progress" in event:
                show(described(jobs[number], Progress.model_validate(event["progress"])))
            else:
                done = Progress(phase="decoding", step=jobs[number].steps, steps=jobs[number].steps)
                report = {"report": event["attention"], "timings": event["timings"], "warnings": event["warnings"]}
                ended[number] = described(jobs[number], done, status=JobStatus.completed, **report)
                show(ended[number])
    return [ended.get(number) for number in range(len(jobs))], lost


def events(jobs: list[JobParams], outputs: list[Path], images: Path | None) -> Iterator[dict[str, Any]]:
    """Run the worker's process and yield its events; closing the generator stops the process."""
    asked = [
        {"params": params.model_dump(mode="json"), "output": str(output.resolve()), "images": images and str(images)}
        for params, output in zip(jobs, outputs, strict=True)
    ]
    with TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
        )
        assert process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps(asked))
            process.stdin.close()
            for line in process.stdout:
                yield json.loads(line)
            if process.wait():
                message = f"the generating process ended unexpectedly: {last_line(said)}"
                yield {"error": {"code": ErrorCode.worker_lost, "message": message}}
        finally:
            process.terminate()
            process.wait()


def described(params: JobParams, progress: Progress, status: JobStatus = JobStatus.in_progress, **report: Any) -> Video:
    """Return a local job as a server would describe it."""
    from adaspa_service.views import video  # noqa: PLC0415  only an install with the gateway has them

    now = int(time.time())
    job = Job(id="local", status=status, params=params, progress=progress, created_at=now, attempt=1, **report)
    return video(job, None)


def last_line(said: IO[str]) -> str:
    """Return the last line that a process wrote."""
    said.seek(0)
    lines = said.read().strip().splitlines()
    return lines[-1] if lines else "no error message"
