"""Image to video: a clip of the prompt that begins with an image, may end with one, or shows what is in one."""

from pathlib import Path

from PIL import Image

from adaspa_worker.context import Context, Made
from adaspa_worker.tasks.clip import make


def run(context: Context) -> Made:
    """Make a job's clip. Raises whatever ends the job or the attempt."""
    return make(context, {role: still(path) for role, path in context.inputs.items()})


def still(path: Path) -> Image.Image:
    """Read an image."""
    with Image.open(path) as image:
        return image.convert("RGB")
