"""Images, videos and sounds of a request: a file goes in a form, the address of one as it is."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaspa_api.fields import ROLES

Image = str | Path | bytes
"""A file's path or bytes, or a URL: http, https or data."""
URLS = ("http://", "https://", "data:")


def is_url(image: Image) -> bool:
    """Tell whether it is an address, and not a file's path or bytes."""
    return isinstance(image, str) and image.lower().startswith(URLS)


def body_of(fields: Mapping[str, Any], image: Image | None, last_image: Image | None) -> dict[str, Any]:
    """Make httpx's arguments of a request's fields and its images.

    Args:
        fields: by name; an image, a video or a sound among them is what ``image`` may be, too.
        image, last_image: what the video begins and ends with.

    Raises:
        OSError: a file cannot be read.
        TypeError: an image is given under both its names.
    """
    given = {name: fields.get(name) for name in ROLES}
    for short, name, value in (("image", "input_reference", image), ("last_image", "last_frame", last_image)):
        if value is None:
            continue
        if given[name] is not None:
            raise TypeError(f"{short} and {name} are the same; allowed: one of the two")
        given[name] = value
    images = {name: value for name, value in given.items() if value is not None}
    urls = {name: each for name, each in images.items() if is_url(each)}
    files = {name: named(each) for name, each in images.items() if name not in urls}
    asked = {name: value for name, value in fields.items() if name not in images} | urls
    if not files:
        return {"json": asked}
    texts = {name: (None, as_text(value)) for name, value in asked.items() if value is not None}
    return {"files": {**texts, **files}}


def named(image: Image) -> tuple[str, bytes]:
    """A file's name and bytes."""
    return ("file", image) if isinstance(image, bytes) else (Path(image).name, Path(image).read_bytes())


def as_text(value: object) -> str:
    """A field's value as a form has it."""
    return value if isinstance(value, str) else json.dumps(value)
