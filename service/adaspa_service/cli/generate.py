"""``adaspa generate``: generate a video file from a prompt, through a server or on this machine."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Unpack

import typer
from adaspa_api.words import OutputFormat
from adaspa_client import Client, NotFound, Video, VideoFields

from adaspa_service.cli import params
from adaspa_service.cli.jobs import check_output
from adaspa_service.cli.local import generate_here, resolved
from adaspa_service.cli.progress import NotCompleted, follow, summary
from adaspa_service.cli.server import SERVER, ApiKey, Server, connect
from adaspa_service.cli.terminal import Exit, Json, fail, print_json, say

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
    if output is not None:
        check_output(output)
    if local:
        with TemporaryDirectory(prefix="adaspa-images-") as images:
            jobs = resolved(prompt, number, asked, Path(images))
            named = [(Path(f"video-{job.seed}.{job.output_format}"), job.seed) for job in jobs]
            files = [file_for(output, default, seed, len(jobs)) for default, seed in named]
            videos = generate_here(jobs, files, Path(images), quiet=as_json)
    else:
        with connect(server, api_key) as client:
            videos = client.create_batch(prompt, number, **asked)
            if detach:
                files = []
            else:
                named = [(Path(f"{video.id}.{video.output_format}"), video.seed) for video in videos]
                files = [file_for(output, default, seed, len(videos)) for default, seed in named]
                videos = fetch(client, videos, files, quiet=as_json)
    if as_json:
        shape = [video.model_dump(mode="json") for video in videos]
        return print_json(shape if number > 1 else shape[0])
    for video, file in zip(videos, files, strict=False):
        say(summary(video))
        say(f"Wrote {file}")
    if detach:
        for video in videos:
            say(video.id)
    return None


def fetch(client: Client, videos: list[Video], files: list[Path], *, quiet: bool) -> list[Video]:
    """Follow the jobs and write their files. An interruption cancels the jobs.

    Raises:
        NotCompleted: a job failed or was cancelled; the other files are written.
        NotFound: so for one that was deleted.
    """
    finished: list[Video] = []
    lost: NotCompleted | NotFound | None = None
    try:
        for video, file in zip(videos, files, strict=True):
            try:
                finished.append(follow(client, video.id, quiet=quiet))
                client.download(video.id, file)
            except (NotCompleted, NotFound) as error:
                lost = error
    except KeyboardInterrupt:
        for video in videos:
            with suppress(NotFound):
                client.cancel(video.id)
        fail("interrupted; cancelled " + ", ".join(video.id for video in videos), Exit.interrupted)
    if lost:
        raise lost
    return finished


def format_of(output: Path | None) -> OutputFormat | None:
    """Return the format that the file's extension names, or None without a file."""
    if output is None:
        return None
    ending = output.suffix.removeprefix(".").lower()
    if ending not in list(OutputFormat):
        fail(f"--output: {output} must end in {ENDINGS}", Exit.usage)
    return OutputFormat[ending]


def file_for(output: Path | None, default: Path, seed: int, count: int) -> Path:
    """Return the path for one of the videos; the seed tells several apart."""
    if output is None:
        return default
    return output if count == 1 else output.with_stem(f"{output.stem}-{seed}")
