"""What a video is asked for with, as options. Defaults and limits are the model's: the catalog has them."""

from typing import Annotated, cast

import typer
from adaspa_api.words import Priority, Quality
from adaspa_client import VideoFields

from adaspa_service.cli.completion import model_ids

Prompt = Annotated[str, typer.Argument(help="What the video shows.")]
Model = Annotated[str | None, typer.Option(help="Default: the first of `adaspa models`.", autocompletion=model_ids)]
Size = Annotated[str | None, typer.Option(metavar="WxH", help="Pixels.")]
Frames = Annotated[int | None, typer.Option(metavar="N", help="Number of frames.")]
Fps = Annotated[int | None, typer.Option(help="Frames a second.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.")]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale.")]
Negative = Annotated[str | None, typer.Option(metavar="TEXT", help="What the video does not show.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same video (default: drawn).")]
QualityPreset = Annotated[Quality | None, typer.Option(help="AdaSpa's preset (default: the model's own settings).")]
Sparsity = Annotated[float | None, typer.Option(help="Instead of a preset: share of the blocks left out; 0 is dense.")]
RetainedMass = Annotated[float | None, typer.Option(help="Instead of a preset: share of the attention mass kept.")]
Warmup = Annotated[int | None, typer.Option(help="Instead of a preset's: dense steps at the start.")]
JobPriority = Annotated[Priority | None, typer.Option(help="Which queue the job waits in.")]
WebhookUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="An https address that gets a signed event at the job's end.")
]


def given(**fields: object) -> VideoFields:
    """Those that were given: the others are left to the model."""
    return cast(VideoFields, {name: value for name, value in fields.items() if value is not None})
