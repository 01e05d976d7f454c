"""``adaspa demo``: start the whole service, generate one video and a contact sheet, and stop it."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from adaspa_api.video_fields import VideoFields
from adaspa_client import Client
from adaspa_client.images import is_url
from adaspa_jobs.catalog import Catalog, CatalogError, ModelSpec
from adaspa_jobs.settings import get_settings

from adaspa_service.cli import params
from adaspa_service.cli.generate import format_of
from adaspa_service.cli.output import check_output, written_whole
from adaspa_service.cli.progress import follow, summary
from adaspa_service.cli.serve import DataDir, Model, Port
from adaspa_service.cli.server import ApiKey, connect
from adaspa_service.cli.terminal import Exit, fail, say
from adaspa_service.local import Supervisor
from adaspa_service.local.supervisor import free_port

DEMO_PROMPT = "a large yellow star moves right on a navy background"
MOTION_PROMPT = "moves right"
"""Default prompt for a user's own image, which shows the rest."""
DEMO_OUTPUT = Path("demo.mp4")
QUICK_LORA = "eight-steps"
"""Name of the built-in model's adapter for fewer steps; used with any model that has one of that name."""
QUICK = VideoFields(steps=8, guidance_scale=1, loras=QUICK_LORA)
"""Fields of a request with that adapter."""


def demo(
    *,
    prompt: Annotated[
        str | None,
        typer.Option(help=f'Text that describes the video (default: "{DEMO_PROMPT}"; with --image "{MOTION_PROMPT}").'),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(metavar="FILE|URL", help="Image to start from. Default model: the first that takes one."),
    ] = None,
    output: Annotated[
        Path, typer.Option(help="Video file to write. A .png with up to 16 of its frames goes next to it.")
    ] = DEMO_OUTPUT,
    port: Port = None,
    data_dir: DataDir = None,
    model: Model = None,
    api_key: ApiKey = None,
) -> None:
    """Start the whole service, generate one video, and stop it again."""
    asked, picture = params.given({"output_format": format_of(output)}), output.with_suffix(".png")
    for path in (output, picture):
        check_output(path)
    params.given({"input_reference": image})
    spec = chosen(model, with_image=image is not None)
    if image is not None and not is_url(image):
        check_image(Path(image))
    prompt = prompt or (MOTION_PROMPT if image else DEMO_PROMPT)
    image = image or (example_image() if spec.needs_image else None)
    with TemporaryDirectory(prefix="adaspa-demo-") as temporary:
        host = "127.0.0.1"
        folder = data_dir or Path(temporary)
        supervisor = Supervisor(folder, host, port or free_port(host), workers=[spec.id], say=say)
        with supervisor, connect(supervisor.url, api_key) as client:
            say(f"AdaSpa is running at {supervisor.url}")
            fields = asked | VideoFields(model=spec.id)
            if QUICK_LORA in (lora.name for lora in spec.loras):
                fields |= QUICK
            video = client.create(prompt, image=image, **fields)
            frames = f"{video.num_frames} frames in {video.steps} steps"
            say(f'Prompt: "{prompt}" ({video.model}, {video.size}, {frames}, seed {video.seed})')
            if image is not None:
                say(f"Image: {image}")
            video = follow(client, video.id, watch=supervisor.watch)
            client.download(video.id, output)
            sheet = write_contact_sheet(client, video.id, picture)
            say(summary(video))
            say(f"Wrote {output} and {sheet}")


def chosen(model: str | None, *, with_image: bool) -> ModelSpec:
    """Return the catalog's model with that id, or by default its first that fits. End the command if there is none."""
    try:
        models = Catalog.load(get_settings().catalog).models
    except CatalogError as error:
        fail(error)
    known = f"allowed: {', '.join(models)}"
    if model is not None and model not in models:
        fail(f"--model: {model!r} is not in the catalog; {known}", Exit.usage)
    asked = models.values() if model is None else [models[model]]
    fitting = [spec for spec in asked if spec.takes_images or not with_image]
    if not fitting:
        unfit = f"model {model} does not take images" if model else "no model of the catalog takes images"
        fail(f"--image: {unfit}; the catalog has {', '.join(models)}", Exit.usage)
    return fitting[0]


def check_image(path: Path) -> None:
    """End the command if the service would reject the file, before starting it."""
    from adaspa_service.inputs.images import fitted, opened  # noqa: PLC0415  as Pillow below
    from adaspa_service.inputs.source import InputRefused  # noqa: PLC0415

    try:
        with path.open("rb") as file:
            fitted(opened(file, get_settings().image_pixels), (16, 16), None)
    except (InputRefused, OSError) as error:
        fail(f"--image: {path}: {error}", Exit.usage)


def example_image() -> str:
    """Return the path of a first frame that fits ``DEMO_PROMPT``."""
    from adaspa_demo_model import EXAMPLE_IMAGE  # noqa: PLC0415  an install without the demo model has its own images

    return str(EXAMPLE_IMAGE)


def write_contact_sheet(client: Client, video_id: str, path: Path) -> Path:
    """Write the job's spritesheet as a PNG file."""
    from PIL import Image  # noqa: PLC0415  only the demo needs it, and only the worker's extra brings it

    with (
        written_whole(path) as part,
        Image.open(client.download(video_id, part.with_name("sheet.webp"), "spritesheet")) as image,
    ):
        image.save(part, "PNG")
    return path
