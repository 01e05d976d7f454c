"""Command-line options of a video request, one for each row of ``adaspa_api.fields``.

Defaults and limits come from the model's catalog entry.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_args

import typer
from adaspa_api.fields import ROLES, VideoCreate, rows
from adaspa_api.limits import Choice
from adaspa_client import VideoFields
from adaspa_client.images import is_url

from adaspa_service.cli.completion import model_ids
from adaspa_service.cli.terminal import Exit, fail

Command = TypeVar("Command", bound=Callable[..., None])

Prompt = Annotated[str, typer.Argument(help="Text that describes the video.")]
OTHERWISE = {"prompt", "seconds", "n", "output_format"}
"""Fields that have no option, or one defined elsewhere."""
OPTIONS = [name for name in rows(VideoCreate) if name not in OTHERWISE]
COMPLETED = {"model": model_ids}


def options(names: Iterable[str]) -> Callable[[Command], Command]:
    """Add an option to a command for each of these request fields; it receives them in ``**asked``."""

    def with_options(command: Command) -> Command:
        own = inspect.signature(command).parameters.values()
        before = [part for part in own if part.kind is part.POSITIONAL_OR_KEYWORD]
        behind = [part for part in own if part.kind is part.KEYWORD_ONLY]
        found = [*before, *map(option, names), *behind]
        command.__signature__ = inspect.Signature(found)  # type: ignore[attr-defined]
        command.__annotations__ = {part.name: part.annotation for part in found}
        return command

    return with_options


def option(name: str) -> inspect.Parameter:
    """Make an option from a field's row; its help is the first sentence of the field's description."""
    row, field = rows(VideoCreate)[name], VideoCreate.model_fields[name]
    words = row.limits.words if isinstance(row.limits, Choice) else None
    help = re.sub(r"(?<=\.)\s.*", "", field.description or "", flags=re.S).replace("``", "`")
    flag = row.option or f"--{name.replace('_', '-')}"
    said = typer.Option(flag, metavar=row.metavar, help=help, autocompletion=COMPLETED.get(name))
    kind: Any = words | None if words else field.annotation
    if str in get_args(kind):  # whatever else it may be in JSON
        kind = str | None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, said])


def given(asked: Mapping[str, object]) -> VideoFields:
    """Return the options that were given. End the command if an image file does not exist."""
    for name in ROLES:
        image = asked.get(name)
        if isinstance(image, str) and not is_url(image) and not Path(image).is_file():
            fail(f"{rows(VideoCreate)[name].option}: {image} does not exist; allowed: a file or a URL", Exit.usage)
    return cast(VideoFields, {name: value for name, value in asked.items() if value is not None})
