"""The demo model: the trained weights of two small Wan pipelines, in diffusers format.

``PIPELINE_FOLDER`` makes videos of a text, ``image_pipeline()`` of a text and a first frame.
"""

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from tempfile import gettempdir

PIPELINE_FOLDER = Path(__file__).with_name("pipeline")
IMAGE_FOLDER = Path(__file__).with_name("image_pipeline")
"""What the image-to-video pipeline has of its own: its transformer."""
LORA_FOLDER = Path(__file__).with_name("loras")
"""Adapters of the text-to-video pipeline: ``eight-steps`` and ``four-steps`` need no guidance and so many steps."""
EXAMPLE_IMAGE = Path(__file__).with_name("first_frame.png")
"""A first frame for the image-to-video pipeline: of ``a large yellow star moves right on a navy background``."""


def image_pipeline() -> Path:
    """Return the folder of the image-to-video pipeline.

    Diffusers wants all parts of a pipeline in one folder, and a wheel, which holds no links, would hold the shared
    parts twice. So the folder is one of links, made in the system's temporary folder by whoever first asks for it.

    Raises:
        PermissionError: somebody else has made a folder of that name.
    """
    parts = {part.name: part for folder in (PIPELINE_FOLDER, IMAGE_FOLDER) for part in folder.iterdir()}
    place = sha256(str(PIPELINE_FOLDER).encode()).hexdigest()[:12]
    linked = Path(gettempdir()) / f"adaspa-demo-model-{os.getuid()}-{place}"
    linked.mkdir(mode=0o700, exist_ok=True)
    if linked.lstat().st_uid != os.getuid():
        raise PermissionError(f"{linked} belongs to another user")
    for name, part in parts.items():
        with suppress(FileExistsError):
            (linked / name).symlink_to(part)
    return linked
