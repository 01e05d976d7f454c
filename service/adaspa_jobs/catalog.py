"""The model catalog: which models are served, and what may be asked of each."""

import logging
import math
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from adaspa_api.limits import Refused
from adaspa_api.loras import NAME, Loras, LoraUse
from adaspa_api.words import OutputFormat, Quality, Task
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import from_json

from adaspa_jobs import fields
from adaspa_jobs.fields import with_limits
from adaspa_jobs.job import JobParams
from adaspa_jobs.step_cache import StepCache

log = logging.getLogger(__name__)

Size = Annotated[str, Field(pattern=r"^[1-9][0-9]{1,4}x[1-9][0-9]{1,4}$")]
Share = Annotated[float, Field(ge=0, le=1)]


class CatalogError(Exception):
    """The catalog cannot be read; the message is one line that names the file and the field."""


class Memory(BaseModel):
    """How a worker holds a model that its GPU has little room for."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    cpu_offload: bool = False
    """Keep in the GPU only the part at work (text encoder, transformer or VAE), the others in host memory."""
    vae_tiling: bool = False
    """Decode the video tile by tile: less memory, more time."""
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    """Of the weights; ``null`` is bfloat16 on a GPU and float32 without one."""
    storage_dtype: Literal["float8_e4m3fn"] | None = None
    """Type that the transformer's weights are kept in, each layer's being cast for its own use: ``float8_e4m3fn`` takes
    half of bfloat16's memory, and changes the video. Not with ``compile``, ``loras`` or several ``gpus``."""
    lora_cache_bytes: int = Field(default=4 * 1024**3, ge=1)
    """Host memory for LoRA adapters that were used, the latest of which stay; a larger file is refused."""


class Lora(BaseModel):
    """A LoRA adapter of a model: one file."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str = Field(pattern=NAME)
    """What requests name it by."""
    description: str = ""
    """A line about it for clients, such as the words in a prompt that it was trained with."""
    source: str = Field(min_length=1)
    """Where its safetensors file lies: a path, ``s3://BUCKET/KEY`` or another object storage's URL, or
    ``OWNER/NAME@COMMIT/FILE`` at the Hugging Face hub, with all 40 digits of the commit; clients do not see it."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the file. One that has another is refused."""
    scale: float = 1.0
    """Its strength when a request does not say."""
    scale_range: tuple[float, float] = (0.0, 2.0)
    """Least and greatest strength that a request may ask for."""
    expert: Literal["both", "first", "second"] = "both"
    """Of Wan 2.2's two experts the one that the file is for; the first takes the noisier steps."""
    group: str | None = None
    """A request may name one adapter at most of those with the same group."""
    partial: bool = False
    """Take the file also where some of its weights have no place in the model; the worker's log says which."""


class Scheduler(BaseModel):
    """A scheduler of diffusers in place of a model's own, such as a distilled model's."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: Literal["FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler", "DPMSolverMultistepScheduler"]
    """Its class in diffusers."""
    options: dict[str, Any] = {}
    """What it is told beside the model's own configuration."""


@with_limits
class ModelSpec(BaseModel):
    """One served model. Nothing outside its limits reaches a worker."""

    # The descriptions make the table of docs/models.md: make field-tables.
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    """What clients name as ``model``: lower-case letters, digits, ``.``, ``_`` and ``-``."""
    source: str = Field(min_length=1)
    """``builtin:demo`` or ``builtin:demo-image``, a folder in diffusers format, or a name at the Hugging Face hub:
    ``OWNER/NAME``, or ``OWNER/NAME@COMMIT``, which always means the same files. Clients do not see it."""
    description: str
    """A line about it for clients."""
    tasks: list[Task] = Field(default=[Task.text_to_video], min_length=1)
    """What it can be asked for: ``text_to_video``, ``image_to_video``, ``first_last_frame``."""
    sizes: list[Size] = Field(min_length=1)
    """``WIDTHxHEIGHT`` in pixels; the first is the default."""
    frames: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    """The numbers of frames that a clip may have."""
    default_frames: int
    """The one of them that is taken when the client does not say."""
    fps: int
    """Frames per second when the client does not say."""
    fps_range: tuple[int, int]
    """Least and most frames per second."""
    steps_range: tuple[int, int]
    """Least and most denoising steps."""
    default_steps: int
    """Denoising steps when the client does not say."""
    guidance_range: tuple[float, float]
    """Least and greatest guidance scale."""
    default_guidance: float
    """The guidance scale when the client does not say."""
    max_prompt_chars: int = Field(default=2000, ge=1)
    """Characters of a prompt, and of a negative prompt."""
    negative_prompt: bool = True
    """Whether a negative prompt has an effect; where it has none, it is refused."""
    prompt_examples: list[str] = []
    """Prompts that the page offers to start from."""
    qualities: list[Quality] = Field(default=list(Quality), min_length=1)
    """AdaSpa's presets that a client may choose."""
    warmup_range: tuple[Share, Share] = (0.0, 1.0)
    """Least and greatest share of the steps that a client may have dense at the start (``warmup``)."""
    output_formats: list[OutputFormat] = Field(default=list(OutputFormat), min_length=1)
    """Of the video's file; the first is the default."""
    audio: bool = False
    """Whether its videos have sound, as LTX-2's do; where they have none, ``audio`` is refused."""
    max_batch: int = Field(default=8, ge=1)
    """Videos that one request may ask for, where ``ADASPA_QUEUE_CAP`` is not less."""
    time_limit_seconds: int | None = Field(default=None, ge=1)
    """How long a job may run, where that is less than ``ADASPA_TIME_LIMIT_SECONDS``."""
    bulk_above: float = Field(default=4.0, ge=1)
    """A request that costs more than this waits in the bulk queue; the default request costs 1."""
    memory: Memory = Memory()
    """How a worker holds it where the GPU has little room: the fields of ``memory``."""
    attention: dict[str, Any] = {}
    """The operator's default: fields of ``adaspa.AdaSpaConfig``, and as ``preset`` the one that they change.

    ``balanced`` if empty.
    """
    cache: StepCache | None = None
    """A step cache that its jobs run with beside AdaSpa: the fields of ``cache``. Not with ``compile``, nor with a
    scheduler that calls the transformer twice a step."""
    compile: bool = False
    """Compile the transformer's blocks with ``torch.compile``: less time for each step, and up to a minute more for a
    worker's first clip and its first ones of other sizes and lengths. Not for CogVideoX and Mochi; needs a C
    compiler, on a CPU a C++ compiler."""
    gpus: int = Field(default=1, ge=1)
    """How many GPUs of one machine make each video together. Not with ``compile``, ``cache``, CPU offload or tiles of
    tokens."""
    call: dict[str, Any] = {}
    """Further keyword arguments of the pipeline's call; what is not given is as it is by default in diffusers."""
    loras: list[Lora] = []
    """[LoRA adapters](loras.md) that requests may name."""
    default_loras: list[LoraUse] = []
    """Those that are used unless a request names them with another scale: ``[{"name": "...", "scale": 1.0}]``."""
    max_loras: int = Field(default=3, ge=1, le=16)
    """Adapters of one request, the default ones included."""
    scheduler: Scheduler | None = None
    """Another scheduler than the model's own: ``name`` is ``FlowMatchEulerDiscreteScheduler``,
    ``UniPCMultistepScheduler`` or ``DPMSolverMultistepScheduler``, ``options`` what it is told beside the model's own
    configuration. For flow-matching models; the shift stays. ``null`` leaves the model its own."""
    flow_shift: float | None = Field(default=None, gt=0)
    """How far the steps are shifted towards noise, where the model's own scheduler is to be changed: Wan 2.1 wants 3
    at 480p and 5 at 720p. ``null`` leaves it."""

    family: str | None = Field(default=None, exclude=True, deprecated=True)
    """Had a meaning in earlier versions, and has none: the worker reads in the model's folder which pipeline it is."""

    @model_validator(mode="after")
    def _defaults_are_allowed(self) -> Self:
        if self.default_frames not in self.frames:
            raise ValueError(f"default_frames: {self.default_frames} is not one of frames {self.frames}")
        ranges = {"fps": self.fps_range, "steps": self.steps_range, "guidance": self.guidance_range}
        defaults = {"fps": self.fps, "steps": self.default_steps, "guidance": self.default_guidance}
        for name, (low, high) in ranges.items():
            if not (0 if name == "guidance" else 1) <= low <= high:
                raise ValueError(f"{name}_range: [{low}, {high}] is not a range")
            if not low <= defaults[name] <= high:
                raise ValueError(f"the default of {name}, {defaults[name]}, is not within [{low}, {high}]")
        for name in ("warmup_range", *(str(limits.limits) for limits in fields.made().values())):
            low, high = getattr(self, name) or (0, 0)
            if low > high:
                raise ValueError(f"{name}: [{low}, {high}] is not a range")
        self._check_loras()
        self._check_storage()
        if self.cache is not None and self.compile:
            raise ValueError("cache: does not go with compile; allowed: one of them")
        if self.negative_prompt and not self.heeds_negative(self.guidance_range[1]):
            scale = "true_cfg_scale in call" if "true_cfg_scale" in self.call else "guidance_range"
            raise ValueError(f"negative_prompt: has no effect; allowed: false, or a {scale} that goes over 1")
        return self

    def _check_storage(self) -> None:
        others = {"compile": self.compile, "loras": bool(self.loras), "several gpus": self.gpus > 1}
        if self.memory.storage_dtype is not None and (found := [name for name, used in others.items() if used]):
            raise ValueError(f"memory.storage_dtype: does not go with {' and '.join(found)}; allowed: null")

    def _check_loras(self) -> None:
        names = [lora.name for lora in self.loras]
        if len(set(names)) < len(names):
            raise ValueError("loras: a name is there twice")
        for lora in self.loras:
            low, high = lora.scale_range
            if not low <= lora.scale <= high:
                raise ValueError(f"loras: {lora.name}: scale {lora.scale} is not within [{low}, {high}]")
        try:
            Loras().settle(None, self, {})
        except Refused as error:
            raise ValueError(f"default_loras: {error}") from error

    @property
    def takes_images(self) -> bool:
        """Whether it makes videos of images too."""
        return any(task.roles for task in self.tasks)

    @property
    def needs_image(self) -> bool:
        """Whether it makes no videos without one."""
        return all(task.roles for task in self.tasks)

    def heeds_negative(self, guidance_scale: float) -> bool:
        """Whether a negative prompt has an effect at this guidance scale."""
        # A distilled model's guidance scale is an input, and another one, if it has that, weighs the negative prompt.
        scale = self.call.get("true_cfg_scale", guidance_scale)
        return self.negative_prompt and isinstance(scale, int | float) and scale > 1

    def gives_sound(self, params: JobParams) -> bool:
        """Whether the file of a job gets a sound: the model makes one, the format holds it, nobody asked for none."""
        return self.audio and params.output_format.holds_sound and params.audio is not False

    def limit(self, general: float) -> float:
        """Seconds that a job may run, where ``general`` is the limit of every model."""
        return general if self.time_limit_seconds is None else min(general, self.time_limit_seconds)

    def cost(self, params: JobParams) -> float:
        """The work of a request in units of the default one: pixels times frames times denoising steps."""
        width, height = map(int, self.sizes[0].split("x"))
        unit = width * height * self.default_frames * self.default_steps
        return params.width * params.height * params.num_frames * params.steps / unit


class Catalog:
    """The served models by id, in the file's order.

    Args:
        models: of the file.
        queue_cap: waiting jobs of one queue. No model's ``max_batch`` is above it: such a batch is never accepted.
    """

    def __init__(self, models: list[ModelSpec], queue_cap: float = math.inf) -> None:
        self._queue_cap = queue_cap
        self._own = self._capped(models)
        self.models = self._own

    @property
    def default(self) -> ModelSpec:
        """The model that is used when a request names none: the first."""
        return next(iter(self.models.values()))

    def get(self, model_id: str) -> ModelSpec | None:
        """The model of that id, if it is served."""
        return self.models.get(model_id)

    def follow(self, announced: list[ModelSpec]) -> None:
        """Serve the file's models, which may be scaled to zero, and those that workers announce; the file's win."""
        self.models = self._own | self._capped([model for model in announced if model.id not in self._own])

    def _capped(self, models: list[ModelSpec]) -> dict[str, ModelSpec]:
        return {
            model.id: model.model_copy(update={"max_batch": min(model.max_batch, self._queue_cap)}) for model in models
        }

    @classmethod
    def load(cls, path: Path | None, queue_cap: float = math.inf) -> "Catalog":
        """Read a catalog file (a JSON array of models), or the built-in one.

        Raises:
            CatalogError: no such file, no JSON, no models, an id twice, or a field that is wrong.
        """
        source = path or files(__package__).joinpath("catalog.json")
        try:
            models = TypeAdapter(list[ModelSpec]).validate_json(source.read_bytes())
        except OSError as error:
            raise CatalogError(f"catalog {path}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = named(source.read_bytes(), first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise CatalogError(": ".join([f"catalog {path}", *where, message])) from error
        catalog = cls(models, queue_cap)
        if not models:
            raise CatalogError(f"catalog {path}: holds no models")
        if len(catalog.models) < len(models):
            raise CatalogError(f"catalog {path}: a model id is there twice")
        for model in models:
            if "family" in model.model_fields_set:
                _note_family(f"{path}", model.id)
        return catalog


@cache
def _note_family(catalog: str, model: str) -> None:
    """Log, once in a process, that an entry has a field that nobody reads."""
    log.warning("catalog %s: model %s: family has no effect any more; leave it out", catalog, model)


def named(text: bytes, place: tuple[int | str, ...]) -> list[str]:
    """Where in a catalog file something is wrong: the model, by its id if it has one, and the field."""
    if not place:
        return []
    index, *field = place
    entry = from_json(text)[index]
    name = entry.get("id", index) if isinstance(entry, dict) else index
    return [f"model {name}", *([".".join(map(str, field))] if field else [])]
