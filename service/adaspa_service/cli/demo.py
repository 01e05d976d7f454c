"""``adaspa demo``: one prompt through the whole service, with a progress bar, to a video and a contact sheet."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from adaspa_client import Client

from adaspa_service.cli.progress import follow, summary
from adaspa_service.cli.serve import DataDir, Model, Port
from adaspa_service.cli.server import ApiKey
from adaspa_service.cli.terminal import fail, say
from adaspa_service.local import Supervisor
from adaspa_service.local.supervisor import free_port

DEMO_PROMPT = "a large yellow star moves right on a navy background"
DEMO_OUTPUT = Path("demo.mp4")


def demo(
    *,
    prompt: Annotated[str, typer.Option(help="What the video shows.")] = DEMO_PROMPT,
    output: Annotated[
        Path, typer.Option(help="The video to write; a .png of its frames goes beside it.")
    ] = DEMO_OUTPUT,
    port: Port = None,
    data_dir: DataDir = None,
    model: Model = None,
    api_key: ApiKey = None,
) -> None:
    """Generate one video through the whole service, and stop it again."""
    if not output.parent.is_dir():
        fail(f"--output: no folder {output.parent}")
    with TemporaryDirectory(prefix="adaspa-demo-") as temporary:
        host = "127.0.0.1"
        folder = data_dir or Path(temporary)
        supervisor = Supervisor(folder, host, port or free_port(host), model=model, worker=True, say=say)
        with supervisor, Client(supervisor.url, api_key=api_key) as client:
            say(f"AdaSpa serves on {supervisor.url}")
            video = client.create(prompt)
            say(f'Prompt: "{prompt}" ({video.model}, {video.size}, {video.num_frames} frames, seed {video.seed})')
            video = follow(client, video.id, watch=supervisor.watch)
            client.download(video.id, output)
            sheet = write_contact_sheet(client, video.id, output.with_suffix(".png"))
            say(summary(video))
            say(f"Wrote {output} and {sheet}")


def write_contact_sheet(client: Client, video_id: str, path: Path) -> Path:
    """The job's spritesheet as a PNG file."""
    from PIL import Image  # noqa: PLC0415  only the demo needs it, and only the worker's extra brings it

    webp, part = path.with_suffix(".webp.part"), path.with_suffix(".png.part")
    try:
        client.download(video_id, webp, "spritesheet")
        with Image.open(webp) as image:
            image.save(part, "PNG")
        part.replace(path)
    finally:
        webp.unlink(missing_ok=True)
        part.unlink(missing_ok=True)
    return path
