"""The models that a gateway serves, and what may be asked of each."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from adaspa_api.loras import LoraUse
from adaspa_api.words import Open, OutputFormat, Quality, Task


class LoraOffer(BaseModel):
    """An adapter that a model can be asked to use."""

    name: str
    description: str
    scale: float = Field(description="Its strength when the client does not say.")
    scale_range: tuple[float, float]
    sha256: str = Field(description="Of its file.")


class Model(BaseModel):
    """A served model and what may be asked of it."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(
        default=0,
        description="When a worker of this service first served it, in Unix seconds; before that, when the gateway "
        "was started.",
    )
    owned_by: Literal["adaspa-serve"] = "adaspa-serve"
    description: str
    tasks: list[Open[Task]] = Field(default=[Task.text_to_video], description="What it can be asked for.")
    sizes: list[str]
    default_size: str
    frames: list[int]
    default_frames: int
    fps_range: tuple[int, int]
    default_fps: int
    steps_range: tuple[int, int]
    default_steps: int
    guidance_range: tuple[float, float]
    default_guidance: float
    max_prompt_chars: int
    negative_prompt: bool = Field(description="Whether it takes one.")
    prompt_examples: list[str]
    qualities: list[Open[Quality]]
    sparsity_range: tuple[float, float]
    retained_mass_range: tuple[float, float]
    warmup_range: tuple[float, float] = Field(description="Share of the steps that may be dense at the start.")
    output_formats: list[Open[OutputFormat]] = Field(description="The first is the default.")
    audio: bool = Field(default=False, description="Whether its videos have sound, in formats that hold it.")
    loras: list[LoraOffer] = Field(default=[], description="LoRA adapters that a request may name.")
    default_loras: list[LoraUse] = Field(default=[], description="Those that are used unless a request says otherwise.")
    max_loras: int = Field(default=0, description="Adapters of one request, the default ones included.")
    max_batch: int = Field(description="The largest n.")
    parameters: dict[str, Any] = Field(
        default={},
        description="What ``POST /videos`` takes with this model, as JSON Schema: each field with its limits.",
    )
    waiting: int = Field(description="Jobs in the queue.")
    running: int = Field(description="Jobs in progress.")
    workers: int = Field(default=0, description="Workers that serve it now. With 0 its jobs wait for one to start.")


class ModelList(BaseModel):
    """The served models; the first is the default."""

    object: Literal["list"] = "list"
    data: list[Model]
