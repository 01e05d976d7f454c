"""Recipe of a video, which its file carries: all that is needed to make it again.

It is JSON in ASCII, where each format has its comment: ``read_comment`` in ``formats``.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from adaspa_api.fields import Kept, rows
from adaspa_api.words import OutputFormat
from adaspa_jobs.job import JobParams

from adaspa_worker import formats

PACKAGES = ("adaspa-serve", "adaspa", "torch", "diffusers", "transformers", "av")
"""Packages whose version may change the video."""
ASKED = {"width", "height", *(name for name, row in rows(Kept).items() if not row.by_hand)} - {
    "quality",
    "output_format",
}
"""All that was asked for but the attention's settings, which stand there in full, and the file's format."""
NEEDED = {"model", "prompt", "seed", "attention"}
"""Fields of every recipe, even of files that an earlier version wrote."""


class NoRecipe(Exception):
    """Failure to find a recipe in a file."""


def write_recipe(params: JobParams, attention: dict[str, Any]) -> str:
    """Write what was asked, the full attention settings, and the versions of what made it, as files carry it.

    Of an image it has the SHA-256.
    """
    asked = params.model_dump(mode="json", include=ASKED)
    inputs = {"inputs": {each.role: {"sha256": each.sha256} for each in params.inputs}} if params.inputs else {}
    versions = {name: version(name) for name in PACKAGES}
    return json.dumps({**asked, **inputs, "attention": attention, "versions": versions})


def read_recipe(path: Path) -> dict[str, Any]:
    """Read the recipe that a video file carries.

    Raises:
        NoRecipe: it is no such file, has no comment, or one that is not a recipe.
    """
    if path.suffix[1:] not in list(OutputFormat):
        raise NoRecipe(f"{path}: not a video file; allowed: {', '.join(f'.{name}' for name in OutputFormat)}")
    text = formats.of(OutputFormat[path.suffix[1:]]).read_comment(path)
    try:
        found = json.loads(text)
    except ValueError as error:
        raise NoRecipe(f"{path}: its comment is no recipe") from error
    if not isinstance(found, dict) or not set(found) >= NEEDED:
        raise NoRecipe(f"{path}: its comment is no recipe")
    return found
