"""Inputs of a job, read from their files: images, a video, a sound."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import av
from adaspa_api.words import Kind
from PIL import Image

from adaspa_worker.sound import Sound

if TYPE_CHECKING:
    from adaspa_worker.pipeline import Given


def still(path: Path) -> Image.Image:
    """Read an image."""
    with Image.open(path) as image:
        return image.convert("RGB")


def frames(path: Path) -> list[Image.Image]:
    """Read a video."""
    with av.open(str(path)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


READERS: "dict[Kind, Callable[[Path], Given]]" = {Kind.image: still, Kind.video: frames, Kind.audio: Sound.read}
