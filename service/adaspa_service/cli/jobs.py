"""``adaspa jobs``, and the commands for single jobs: ``show``, ``download``, ``cancel``, ``delete``."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from adaspa_api.fields import Kept, rows
from adaspa_api.limits import Refused
from adaspa_api.metadata import read
from adaspa_api.words import JobStatus
from adaspa_client import ApiError, Forbidden, Unauthorized, Variant, Video

from adaspa_service.cli.completion import video_ids
from adaspa_service.cli.output import check_folder, check_output
from adaspa_service.cli.progress import NotCompleted, follow, summary
from adaspa_service.cli.server import SERVER, ApiKey, Server, connect
from adaspa_service.cli.terminal import Exit, Json, confirm, console, fail, print_json, print_table, say, warn
from adaspa_service.cli.times import written

COLUMNS = ("ID", "STATUS", "DONE", "CREATED", "MODEL", "SEED", "PROMPT")
BRIEF = ("ID", "STATUS", "CREATED", "PROMPT")
"""Columns that fit into a terminal, one line per job."""
TOLD = ("prompt", "model", "num_frames", "fps", "steps")
"""Fields that ``facts`` lists by hand."""
SIDE_FILES = {"thumbnail": ".webp", "spritesheet": ".webp"}

VideoId = Annotated[
    str, typer.Argument(metavar="ID", help="Id of the job, as in `adaspa jobs`.", autocompletion=video_ids)
]
VideoIds = Annotated[
    list[str], typer.Argument(metavar="ID...", help="Ids of the jobs, as in `adaspa jobs`.", autocompletion=video_ids)
]


def jobs(
    *,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number of jobs.")] = 20,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Start after this job: the next page.")] = None,
    status: Annotated[JobStatus | None, typer.Option(help="Only jobs with this status.")] = None,
    metadata: Annotated[
        str | None, typer.Option(metavar="KEY=VALUE,...", help="Only jobs with all of these pairs.")
    ] = None,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="List the oldest jobs first.")] = False,
    server: Server = SERVER,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    try:
        pairs = read(metadata or "")
    except Refused as error:
        fail(error.of("--metadata"), Exit.usage)
    with connect(server, api_key) as client:
        found = client.list("asc" if oldest_first else "desc", after=after, metadata=pairs)
        page = list(islice((job for job in found if status in (None, job.status)), limit + 1))
    more, page = len(page) > limit, page[:limit]
    if as_json:
        return print_json([job.model_dump(mode="json") for job in page])
    if console.is_terminal:
        print_table(BRIEF, [brief(job) for job in page], cut_last=True)
    else:
        print_table(COLUMNS, [row(job) for job in page])
    if more and console.is_terminal:
        say(f"Next page: adaspa jobs --after {page[-1].id}")
    return None


def show(
    video_id: VideoId,
    follow_it: Annotated[bool, typer.Option("--follow", "-f", help="Show the progress until the job ends.")] = False,
    server: Server = SERVER,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Show one job: its status, its settings and what AdaSpa did."""
    with connect(server, api_key) as client:
        try:
            video = follow(client, video_id, quiet=as_json) if follow_it else client.get(video_id)
        except NotCompleted as error:
            if as_json:
                print_json(error.video.model_dump(mode="json"))
            raise
    if as_json:
        return print_json(video.model_dump(mode="json"))
    print_table(("FIELD", "VALUE"), [(name, value) for name, value in facts(video).items() if value is not None])
    if video.attention:
        say(summary(video))
    return None


def download(
    video_id: VideoId,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write (default: named after the job, in this folder)."),
    ] = None,
    variant: Annotated[Variant, typer.Option(help="Which of the job's files to download.")] = "video",
    server: Server = SERVER,
    api_key: ApiKey = None,
) -> None:
    """Download a completed job's video, or one of its pictures."""
    if output is None:
        check_folder(Path())
    else:
        check_output(output)
    with connect(server, api_key) as client:
        video = client.get(video_id)
        path = output or Path(f"{video_id}{SIDE_FILES.get(variant, f'.{video.output_format}')}")
        check_output(path)
        client.download(video_id, path, variant)
    say(f"Wrote {path}")


def cancel(ids: VideoIds, server: Server = SERVER, api_key: ApiKey = None) -> None:
    """Cancel jobs: queued ones at once, running ones within a denoising step. Their records are kept."""
    with connect(server, api_key) as client:

        def stop(video_id: str) -> str:
            video = client.cancel(video_id)
            return f"{video.status}{'' if video.done else ' (stops after the current step)'}"

        do_each(ids, stop)


def delete(
    ids: VideoIds,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    server: Server = SERVER,
    api_key: ApiKey = None,
) -> None:
    """Delete jobs and their files permanently. Running jobs are stopped."""
    if not yes:
        several = len(set(ids)) > 1
        confirm(f"Permanently delete {f'{len(set(ids))} jobs' if several else ids[0]}?", "delete")
    with connect(server, api_key) as client:

        def remove(video_id: str) -> str:
            client.delete(video_id)
            return "deleted"

        do_each(ids, remove)


def do_each(ids: list[str], act: Callable[[str], str]) -> None:
    """Act on each job once and say what came of it. A refusal is a line on standard error and stops no other job."""
    refused = False
    for video_id in dict.fromkeys(ids):
        try:
            say(f"{video_id}: {act(video_id)}")
        except (Unauthorized, Forbidden):  # which every other job would get, too
            raise
        except ApiError as error:
            warn(f"{video_id}: {error}")
            refused = True
    if refused:
        raise SystemExit(int(Exit.failed))


def row(job: Video) -> tuple[object, ...]:
    """Format a job's line for a program."""
    return job.id, job.status, f"{job.progress} %", written(job.created_at), job.model, job.seed, job.prompt


def brief(job: Video) -> tuple[object, ...]:
    """Format a job's line for a terminal."""
    state = f"{job.progress} %" if job.status is JobStatus.in_progress else job.status
    return job.id, state, written(job.created_at, "%m-%d %H:%M"), job.prompt


def facts(video: Video) -> dict[str, object]:
    """Return the facts about a job by name, None if there is none."""
    others = {row.label.lower(): typed(getattr(video, name)) for name, row in rows(Kept).items() if name not in TOLD}
    return {
        "id": video.id,
        "status": video.status,
        "error": f"{video.error.message} ({video.error.code})" if video.error else None,
        "progress": f"{video.progress} %",
        "phase": None if video.done else video.phase.replace("_", " "),
        "queue position": video.queue_position,
        "step": f"{video.step} of {video.steps}",
        "model": video.model,
        "prompt": video.prompt,
        "size": video.size,
        "clip": f"{video.num_frames} frames at {video.fps} fps",
        **others,
        "metadata": ", ".join(f"{key}={value}" for key, value in video.metadata.items()) or None,
        "user": video.user,
        "remixed from": video.remixed_from_video_id,
        "created": written(video.created_at),
        "ended": written(video.completed_at) if video.completed_at else None,
        "kept until": written(video.expires_at) if video.expires_at else None,
        "attempts": video.attempt,
    }


def typed(value: object) -> object:
    """Return a field's value as one would type it: adapters as their names and scales."""
    return ", ".join(f"{use.name}:{use.scale:g}" for use in value) if isinstance(value, list) else value
