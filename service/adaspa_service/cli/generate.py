"""``adaspa generate``: generate a video file from a prompt, through a server or on this machine."""

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, NoReturn, Unpack

import httpx
import typer
from adaspa_api.words import JobStatus, OutputFormat
from adaspa_client import ApiError, Client, NotFound, Video, VideoFields

from adaspa_service.cli import params
from adaspa_service.cli.local import generate_here, resolved
from adaspa_service.cli.output import check_folder, check_output
from adaspa_service.cli.progress import Ended, NotCompleted, follow, summary
from adaspa_service.cli.server import SERVER, ApiKey, Server, connect
from adaspa_service.cli.terminal import Exit, Json, fail, print_json, say, warn

SERVER_ONLY = ("priority", "webhook_url", "metadata", "user")
"""Fields that have no effect without a server."""
ENDINGS = ", ".join(f".{name}" for name in OutputFormat)
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help=f"File to write: {ENDINGS} (default: named after the job, in this folder)."),
]


@params.options(params.OPTIONS)
def generate(
    prompt: params.Prompt,
    output: Output = None,
    *,
    number: Annotated[
        int, typer.Option("-n", min=1, help="Number of videos, with consecutive seeds; file names include the seed.")
    ] = 1,
    local: Annotated[
        bool, typer.Option("--local", help="Load the model on this machine instead of using a server.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Submit, print the ids and exit.")] = False,
    server: Server = SERVER,
    api_key: ApiKey = None,
    as_json: Json = False,
    **asked: Unpack[VideoFields],
) -> None:
    """Generate a video and download it. Ctrl-C cancels the job."""
    asked = params.given({**asked, "output_format": format_of(output)})
    server_only = ((f"--{name.replace('_', '-')}", name in asked) for name in SERVER_ONLY)
    for name, given in (("--detach", detach), *server_only):
        if local and given:
            fail(f"{name}: has no effect with --local, which uses no server; allowed: one of the two", Exit.usage)
    if not detach:
        check_outputs(output, asked.get("seed"), number)
    if local:
        with TemporaryDirectory(prefix="adaspa-images-") as images:
            jobs = resolved(prompt, number, asked, Path(images))
            files = {
                job.seed: file_for(output, Path(f"video-{job.seed}.{job.output_format}"), job.seed, number)
                for job in jobs
            }
            ended, lost = generate_here(jobs, list(files.values()), Path(images), quiet=as_json)
    else:
        with connect(server, api_key) as client:
            videos = submit(client, lambda key: client.create_batch(prompt, number, idempotency_key=key, **asked))
            files = {
                video.seed: file_for(output, Path(f"{video.id}.{video.output_format}"), video.seed, number)
                for video in videos
            }
            if detach:
                ended, lost = [*videos], None
            else:
                ended, lost = fetch(client, videos, list(files.values()), quiet=as_json)
    known = [video for video in ended if video]
    if as_json and known:
        told = [video.model_dump(mode="json") for video in known]
        print_json(told if number > 1 else told[0])
    for video in () if as_json else known:
        if detach:
            say(video.id)
        elif video.status is JobStatus.completed:
            say(summary(video))
            say(f"Wrote {files[video.seed]}")
    if lost:
        raise lost


def submit(client: Client, send: Callable[[str], list[Video]], before: Sequence[Video] = ()) -> list[Video]:
    """Submit a request with an idempotency key. An interruption cancels its jobs, which it is sent again to learn.

    Args:
        send: the request, by the key.
        before: jobs that are cancelled with it.
    """
    key, made = uuid.uuid4().hex, [*before]
    try:
        return send(key)
    except KeyboardInterrupt:
        try:
            warn("interrupted; asking the server which jobs it made")
            made += send(key)
        except KeyboardInterrupt:
            warn("interrupted again; the server may have made a job: `adaspa jobs` lists all")
        except (httpx.TransportError, ApiError) as error:
            refused = isinstance(error, ApiError) and 400 <= error.status < 500 and error.status != 429  # it made none
            if not refused:
                warn(f"the server does not say whether it made a job: {error}; `adaspa jobs` lists all")
        interrupted(client, made)


def fetch(client: Client, videos: list[Video], files: list[Path], *, quiet: bool, as_one: bool = False) -> Ended:
    """Follow the jobs and write their files. An interruption cancels the jobs.

    Of several errors one is returned; each other one is a line on standard error. What ends the command otherwise, such
    as a server that is away or SIGTERM, leaves the jobs to the server, and a line names them.

    Args:
        as_one: whether the caller joins the files: as long as one is missing, none counts as written.
    """
    ended: list[Video | None] = []
    lost: NotCompleted | NotFound | None = None
    handled = 0
    try:
        for video, file in zip(videos, files, strict=True):
            try:
                completed = follow(client, video.id, quiet=quiet)
                client.download(video.id, file)
                ended.append(completed)
            except (NotCompleted, NotFound) as error:
                ended.append(error.video if isinstance(error, NotCompleted) else None)
                if lost:
                    warn(lost)
                lost = error
            handled += 1
    except KeyboardInterrupt:
        interrupted(client, videos)
    except (httpx.TransportError, ApiError, TimeoutError, OSError, SystemExit):
        left = ", ".join(video.id for video in videos[0 if as_one else handled :])
        warn(f"not written, but left to the server: {left}; use `adaspa show --follow ID`, then `adaspa download ID`")
        raise
    return ended, lost


def interrupted(client: Client, videos: list[Video]) -> NoReturn:
    """Cancel the jobs of an interrupted command and end it."""
    ids = [video.id for video in videos]
    for number, video_id in enumerate(ids):
        try:
            client.cancel(video_id)
        except NotFound:  # it is deleted
            pass
        except KeyboardInterrupt:
            fail(f"interrupted again; possibly not cancelled: {', '.join(ids[number:])}", Exit.interrupted)
        except (httpx.TransportError, ApiError) as error:
            fail(f"interrupted; could not cancel {', '.join(ids[number:])}: {error}", Exit.interrupted)
    fail(f"interrupted; cancelled {', '.join(ids) or 'no job'}", Exit.interrupted)


def format_of(output: Path | None) -> OutputFormat | None:
    """Return the format that the file's extension names, or None without a file."""
    if output is None:
        return None
    ending = output.suffix.removeprefix(".").lower()
    if ending not in list(OutputFormat):
        fail(f"--output: {output} must end in {ENDINGS}", Exit.usage)
    return OutputFormat[ending]


def check_outputs(output: Path | None, seed: int | None, count: int) -> None:
    """End the command if the videos' files could not be written, as far as their names are known before their jobs."""
    if output is None:
        check_folder(Path())
    elif seed is None:
        check_output(output)
    else:
        for each in range(count):
            check_output(file_for(output, output, seed + each, count))


def file_for(output: Path | None, default: Path, seed: int, count: int) -> Path:
    """Return the path for one of the videos; the seed tells several apart."""
    if output is None:
        return default
    return output if count == 1 else output.with_stem(f"{output.stem}-{seed}")
