"""Optional fields of a request, and the files of a job. ``make field-tables`` generates this file."""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

Variant = Literal[
    "video",
    "thumbnail",
    "spritesheet",
    "first_frame",
    "last_frame",
    "start_video",
    "reference_image",
    "reference_audio",
]
"""Files of a job: what it made, and what it was made of."""


class VideoFields(TypedDict, total=False):
    """Optional fields of a request, besides the prompt. ``models`` lists what each model takes."""

    model: str
    size: str
    seconds: str | float
    input_reference: str
    last_frame: str
    start_video: str
    reference_image: str
    reference_audio: str
    fit: Literal["cover", "contain"]
    num_frames: int
    fps: int
    steps: int
    guidance_scale: float
    guidance_scale_2: float
    negative_prompt: str
    seed: int
    quality: Literal["exact", "quality", "balanced", "fast"]
    sparsity: float
    retained_mass: float
    warmup: int
    flow_shift: float
    loras: list[Mapping[str, Any]] | str
    output_format: Literal["mp4", "webm", "gif", "webp"]
    audio: bool
    priority: Literal["interactive", "bulk"]
    webhook_url: str
    metadata: Mapping[str, str] | str
    user: str
