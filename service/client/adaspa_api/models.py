"""Models that a gateway serves, with their limits."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from adaspa_api.loras import LoraUse
from adaspa_api.words import Open, OutputFormat, Quality, Task


class LoraOffer(BaseModel):
    """A LoRA adapter that a model offers."""

    name: str
    description: str
    scale: float = Field(description="Default strength.")
    scale_range: tuple[float, float]
    sha256: str = Field(description="SHA-256 of the adapter's file.")


class Model(BaseModel):
    """A served model with its limits and defaults."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(
        default=0,
        description="Unix time when a worker of this service first served the model. Until then, the gateway's start.",
    )
    owned_by: Literal["adaspa-serve"] = "adaspa-serve"
    description: str
    tasks: list[Open[Task]] = Field(default=[Task.text_to_video], description="Tasks that the model supports.")
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
    negative_prompt: bool = Field(description="Whether the model supports negative prompts.")
    prompt_examples: list[str]
    qualities: list[Open[Quality]]
    sparsity_range: tuple[float, float]
    retained_mass_range: tuple[float, float]
    warmup_range: tuple[float, float] = Field(description="Allowed share of dense steps at the start (`warmup`).")
    output_formats: list[Open[OutputFormat]] = Field(description="File formats; the first is the default.")
    audio: bool = Field(default=False, description="Whether the model generates sound, in formats that can hold it.")
    loras: list[LoraOffer] = Field(default=[], description="LoRA adapters that a request may name.")
    default_loras: list[LoraUse] = Field(default=[], description="Adapters applied unless a request overrides them.")
    max_loras: int = Field(default=0, description="Maximum number of adapters per request, including the defaults.")
    max_batch: int = Field(description="Maximum `n` of a request.")
    parameters: dict[str, Any] = Field(
        default={},
        description="The fields of `POST /videos` for this model, with their limits, as JSON Schema.",
    )
    waiting: int = Field(description="Number of queued jobs.")
    running: int = Field(description="Number of jobs in progress.")
    workers: int = Field(default=0, description="Number of workers that serve the model now. If 0, jobs wait for one.")


class ModelList(BaseModel):
    """Served models; the first is the default."""

    object: Literal["list"] = "list"
    data: list[Model]
