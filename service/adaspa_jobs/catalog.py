"""Model catalog: the served models with their limits and defaults."""

import logging
import math
from copy import copy
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from adaspa_api.limits import Refused
from adaspa_api.loras import MOST_USES, NAME, Loras, LoraUse
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
    """Failure to read a catalog; the message is one line that names the file and the field."""


class Memory(BaseModel):
    """Ways to fit a model into little GPU memory."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    cpu_offload: bool = False
    """Keep only the active component (text encoder, transformer or VAE) on the GPU, and the rest in host memory."""
    group_offload: bool = False
    """Keep the transformer's blocks and the text encoders' layers in host memory, and copy each to the GPU while the
    one before it runs. For a GPU that does not hold the transformer. Cannot be combined with ``cpu_offload``, smaller
    weights, ``cache``, ``compile``, ``loras`` or several ``gpus``."""
    vae_tiling: bool = False
    """Always decode the video in tiles: uses less memory, takes more time. Without it, a worker does so if the whole
    does not fit. Several ``gpus`` decode some tiles each."""
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    """Data type of the weights; ``null`` means bfloat16 on a GPU and float32 on a CPU."""
    storage_dtype: Literal["float8_e4m3fn"] | None = None
    """Data type for storing the transformer's weights; each layer is cast when it runs. ``float8_e4m3fn`` uses half the
    memory of bfloat16 and changes the video. Cannot be combined with ``compile``, ``loras`` or several ``gpus``."""
    quantization: Literal["int8", "float8"] | None = None
    """Rounds the weights of the transformer's linear layers at load, with one scale per output; uses half the memory of
    bfloat16 and changes the video. ``int8`` computes in the model's own type and cannot be combined with ``compile``.
    ``float8`` also rounds what the blocks' layers are given, and multiplies in e4m3: faster steps on GPUs of compute
    capability 8.9 or higher. It needs ``compile``. Both need torchao (``adaspa-serve[quantization]``), and cannot be
    combined with ``storage_dtype`` or several ``gpus``."""
    gguf: list[str] | None = Field(default=None, min_length=1)
    """Paths of GGUF files with the transformer's weights, instead of those in the model's folder. One file, or two for
    Wan 2.2 A14B, the expert of the noisier steps first. For Wan, HunyuanVideo, LTX and Mochi. Needs gguf
    (``adaspa-serve[quantization]``). Cannot be combined with ``storage_dtype``, ``quantization``, ``compile``,
    ``loras`` or several ``gpus``."""
    lora_cache_bytes: int = Field(default=4 * 1024**3, ge=1)
    """Host memory for recently used LoRA adapters, in bytes; a larger file is rejected."""


SMALLER = ("storage_dtype", "quantization", "gguf")
"""Fields of ``Memory`` that make the transformer's weights smaller, each in its own way."""


class Parallelism(BaseModel):
    """Division of the work on a video among several GPUs."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    guidance: int = Field(default=1, ge=1, le=2)
    """``2`` computes the two guidance branches side by side. Only for Wan and LTX-Video. It does not speed up requests
    without guidance (``guidance_scale`` 1), and each GPU needs as much memory as one alone."""
    ulysses: int = Field(default=1, ge=1)
    """Number of GPUs that share the tokens of each forward pass; each needs less memory than one alone."""


class Lora(BaseModel):
    """A LoRA adapter of a model: one file."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str = Field(pattern=NAME)
    """Name to use in requests."""
    description: str = ""
    """One line for clients, such as the adapter's trigger words."""
    source: str = Field(min_length=1)
    """Location of the safetensors file: a path, ``s3://BUCKET/KEY`` or another storage URL,
    ``OWNER/NAME@COMMIT/FILE`` on the Hugging Face Hub, with all 40 digits of the commit, or ``builtin:eight-steps`` and
    ``builtin:four-steps`` of the demo model. Clients do not see it."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the file; a file with another hash is rejected."""
    scale: float = 1.0
    """Default strength."""
    scale_range: tuple[float, float] = (0.0, 2.0)
    """Minimum and maximum strength in requests."""
    expert: Literal["both", "first", "second"] = "both"
    """Expert of Wan 2.2 that the file applies to; the first handles the noisier steps."""
    group: str | None = None
    """Name of a group of alternatives: a request may use only one adapter of the same group."""
    partial: bool = False
    """Accept the file even if some of its weights do not fit the model; the worker logs which."""


class Scheduler(BaseModel):
    """A diffusers scheduler that replaces the model's own, for example for a distilled model."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: Literal["FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler", "DPMSolverMultistepScheduler"]
    """Class of the scheduler in diffusers."""
    options: dict[str, Any] = {}
    """Settings that override the model's own scheduler configuration."""


@with_limits
class ModelSpec(BaseModel):
    """A served model. Workers never receive a request outside its limits."""

    # The descriptions make the table of docs/models.md: make field-tables.
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    """Name that clients use as ``model``: lower-case letters, digits, ``.``, ``_`` and ``-``."""
    source: str = Field(min_length=1)
    """Location of the model: ``builtin:demo``, ``builtin:demo-image``, a folder in diffusers format, or a Hugging Face
    Hub name: ``OWNER/NAME``, or ``OWNER/NAME@COMMIT`` to pin the files. Clients do not see it."""
    description: str
    """One line for clients."""
    tasks: list[Task] = Field(
        default=[Task.text_to_video],
        min_length=1,
        description=f"Supported tasks: {', '.join(f'``{x}``' for x in Task)}.",
    )
    sizes: list[Size] = Field(min_length=1)
    """Supported sizes, ``WIDTHxHEIGHT`` in pixels; the first is the default."""
    frames: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    """Supported numbers of frames."""
    default_frames: int
    """Default number of frames; must be one of ``frames``."""
    start_frames: int = Field(default=17, ge=2)
    """Number of last frames of a start video with which the new clip begins (``video_continuation``)."""
    fps: int
    """Default frames per second."""
    fps_range: tuple[int, int]
    """Minimum and maximum frames per second."""
    steps_range: tuple[int, int]
    """Minimum and maximum number of denoising steps."""
    default_steps: int
    """Default number of denoising steps."""
    guidance_range: tuple[float, float]
    """Minimum and maximum guidance scale."""
    default_guidance: float
    """Default guidance scale."""
    max_prompt_chars: int = Field(default=2000, ge=1)
    """Maximum length of a prompt or negative prompt, in characters."""
    negative_prompt: bool = True
    """True if the model supports negative prompts. If not, requests with one are rejected."""
    prompt_examples: list[str] = []
    """Example prompts for the page."""
    qualities: list[Quality] = Field(default=list(Quality), min_length=1)
    """AdaSpa presets that clients may choose."""
    warmup_range: tuple[Share, Share] = (0.0, 1.0)
    """Minimum and maximum share of dense steps at the start (``warmup``)."""
    output_formats: list[OutputFormat] = Field(default=list(OutputFormat), min_length=1)
    """File formats that clients may choose; the first is the default."""
    audio: bool = False
    """True if the model generates sound, as LTX-2 does. If not, requests with ``audio`` are rejected."""
    max_batch: int = Field(default=8, ge=1)
    """Maximum number of videos per request. ``ADASPA_QUEUE_CAP`` applies if it is lower."""
    time_limit_seconds: int | None = Field(default=None, ge=1)
    """Seconds that a job may run. ``ADASPA_TIME_LIMIT_SECONDS`` applies if it is lower."""
    bulk_above: float = Field(default=4.0, ge=1)
    """Cost above which a request waits in the bulk queue; the model's default request costs 1."""
    memory: Memory = Memory()
    """Ways to fit the model into little GPU memory: the fields of ``memory``."""
    attention: dict[str, Any] = {}
    """AdaSpa settings for jobs without a preset: fields of ``adaspa.AdaSpaConfig``, with ``preset`` as the base that
    they change.

    Empty means ``balanced``.
    """
    cache: StepCache | None = None
    """Step cache to run beside AdaSpa: the fields of ``cache``. Cannot be combined with a scheduler that calls the
    transformer twice per step."""
    compile: bool = False
    """Compile the transformer's blocks with ``torch.compile``. Steps become faster, but a worker's first clip of each
    size and length takes up to a minute longer. Not supported for CogVideoX and Mochi. Requires a C compiler, or a C++
    compiler on a CPU."""
    gpus: int = Field(default=1, ge=1)
    """Number of GPUs of one machine that work on each video together. Several cannot be combined with ``compile``,
    ``cache``, CPU offload or tiles of tokens."""
    parallelism: Parallelism | None = None
    """Division of the work among the GPUs: the fields of ``parallelism``, whose product is ``gpus``. ``null`` computes
    the two guidance branches side by side if the model has them, its default request uses them and ``gpus`` is
    even."""
    call: dict[str, Any] = {}
    """Further keyword arguments for the pipeline's call. Other arguments keep the defaults of diffusers."""
    loras: list[Lora] = []
    """[LoRA adapters](loras.md) that requests may use."""
    default_loras: list[LoraUse] = []
    """Adapters applied unless a request names them with another scale: ``[{"name": "...", "scale": 1.0}]``."""
    max_loras: int = Field(default=3, ge=1, le=MOST_USES)
    """Maximum number of adapters per request, including the defaults."""
    scheduler: Scheduler | None = None
    """Scheduler that replaces the model's own. ``name`` is ``FlowMatchEulerDiscreteScheduler``,
    ``UniPCMultistepScheduler`` or ``DPMSolverMultistepScheduler``; ``options`` override the model's scheduler
    configuration. Only for flow-matching models, whose shift is kept. With beta, Karras or exponential sigmas a
    shift has no effect in diffusers 0.42.1, and only ``FlowMatchEulerDiscreteScheduler`` can have them. ``null``
    keeps the model's own scheduler."""
    flow_shift: float | None = Field(default=None, gt=0)
    """Shift of the steps towards noise. For Wan 2.1, use 3 at 480p and 5 at 720p. ``null`` keeps the model's own
    shift."""

    family: str | None = Field(default=None, exclude=True, deprecated=True)
    """Unused; kept so that catalogs of earlier versions load. The worker reads the pipeline from the model's folder."""

    @property
    def denoising(self) -> str:
        """JSON of what a clip's latents depend on beside the request: the weights, and the way through the noise."""
        own = self.model_copy(update={"memory": Memory(gguf=self.memory.gguf)})
        named = {"source", "memory", "scheduler", "flow_shift", "call"}
        return own.model_dump_json(include=named, exclude_defaults=True)

    @model_validator(mode="after")
    def _defaults_are_allowed(self) -> Self:
        if self.default_frames not in self.frames:
            raise ValueError(f"default_frames: {self.default_frames} is not in frames; allowed: {self.frames}")
        ranges = {"fps": self.fps_range, "steps": self.steps_range, "guidance": self.guidance_range}
        defaults = {"fps": self.fps, "steps": self.default_steps, "guidance": self.default_guidance}
        for name, (low, high) in ranges.items():
            if not (0 if name == "guidance" else 1) <= low <= high:
                raise ValueError(f"{name}_range: [{low}, {high}] is not a valid range")
            if not low <= defaults[name] <= high:
                raise ValueError(f"the default of {name}, {defaults[name]}, is out of range; allowed: {low} to {high}")
        for name in ("warmup_range", *(str(limits.limits) for limits in fields.made().values())):
            low, high = getattr(self, name) or (0, 0)
            if low > high:
                raise ValueError(f"{name}: [{low}, {high}] is not a valid range")
        for each in self.output_formats:
            if each.max_fps is not None and self.fps_range[0] > each.max_fps:
                why = f"output_formats: {each} plays at up to {each.max_fps} frames per second"
                raise ValueError(
                    f"{why}, and fps_range begins at {self.fps_range[0]}; allowed: formats that a rate fits"
                )
        first = self.output_formats[0]
        if first.max_fps is not None and self.fps > first.max_fps:
            why = f"the default of fps, {self.fps}, is too fast for {first}, the first of output_formats"
            raise ValueError(f"{why}; allowed: up to {first.max_fps}")
        self._check_loras()
        self._check_weights()
        self._check_offload()
        if (shared := self.parallelism) is not None and shared.guidance * shared.ulysses != self.gpus:
            product = f"{shared.guidance} * {shared.ulysses}"
            raise ValueError(f"parallelism: guidance * ulysses is {product}; allowed: gpus, which is {self.gpus}")
        if self.negative_prompt and not self.heeds_negative(self.guidance_range[1]):
            scale = "true_cfg_scale in call" if "true_cfg_scale" in self.call else "guidance_range"
            raise ValueError(f"negative_prompt: has no effect; allowed: false, or {scale} over 1")
        return self

    def _check_weights(self) -> None:
        small = [name for name in SMALLER if getattr(self.memory, name) is not None]
        if len(small) > 1:
            raise ValueError(f"memory.{small[1]}: cannot be combined with {small[0]}; allowed: one of them")
        float8 = self.memory.quantization == "float8"
        loras = bool(self.loras) and "quantization" not in small
        others = {"compile": self.compile and not float8, "loras": loras, "several gpus": self.gpus > 1}
        if float8 and not self.compile:  # rounding what a layer is given takes as long as it saves, unless it is fused
            raise ValueError("memory.quantization: float8 needs compile; allowed: null, int8, or compile true")
        if float8 and self.memory.dtype not in (None, "bfloat16"):
            raise ValueError(f"memory.dtype: float8 cannot be combined with {self.memory.dtype}; allowed: bfloat16")
        if small and (found := [name for name, used in others.items() if used]):
            raise ValueError(f"memory.{small[0]}: cannot be combined with {' and '.join(found)}; allowed: null")

    def _check_offload(self) -> None:
        memory = self.memory
        others = {name: getattr(memory, name) not in (None, False) for name in ("cpu_offload", *SMALLER)}
        others |= {"cache": self.cache is not None, "compile": self.compile, "loras": bool(self.loras)}
        others["several gpus"] = self.gpus > 1
        if memory.group_offload and (found := [name for name, used in others.items() if used]):
            raise ValueError(f"memory.group_offload: cannot be combined with {' and '.join(found)}; allowed: false")

    def _check_loras(self) -> None:
        names = [lora.name for lora in self.loras]
        if len(set(names)) < len(names):
            raise ValueError("loras: a name appears twice; allowed: each name once")
        for lora in self.loras:
            low, high = lora.scale_range
            if not low <= lora.scale <= high:
                raise ValueError(f"loras: {lora.name}: scale {lora.scale} is out of range; allowed: {low} to {high}")
        try:
            Loras().settle(None, self, {})
        except Refused as error:
            raise ValueError(f"default_loras: {error}") from error

    @property
    def takes_images(self) -> bool:
        """True if the model can start from an image or a video."""
        return any(role.is_in_frame for task in self.tasks for role in task.roles)

    @property
    def needs_image(self) -> bool:
        """True if the model requires an input beside the prompt."""
        return all(task.roles for task in self.tasks)

    def heeds_negative(self, guidance_scale: float) -> bool:
        """Return whether a negative prompt has an effect at this guidance scale."""
        # A distilled model's guidance scale is an input, and another one, if it has that, weighs the negative prompt.
        scale = self.call.get("true_cfg_scale", guidance_scale)
        return self.negative_prompt and isinstance(scale, int | float) and scale > 1

    def gives_sound(self, params: JobParams) -> bool:
        """Return whether a job's video has sound: the model makes it, the format holds it, the request allows it."""
        return self.audio and params.output_format.holds_sound and params.audio is not False

    def limit(self, general: float) -> float:
        """Return the seconds that a job may run, given the ``general`` limit for all models."""
        return general if self.time_limit_seconds is None else min(general, self.time_limit_seconds)

    def cost(self, params: JobParams) -> float:
        """Return a request's work (pixels times frames times steps) relative to the default request."""
        width, height = map(int, self.sizes[0].split("x"))
        unit = width * height * self.default_frames * self.default_steps
        return params.width * params.height * params.num_frames * params.steps / unit


class Catalog:
    """Served models by id, in the order of the file.

    Args:
        models: entries of the file.
        queue_cap: maximum number of waiting jobs per queue. It also caps each model's ``max_batch``.
    """

    def __init__(self, models: list[ModelSpec], queue_cap: float = math.inf) -> None:
        self._queue_cap = queue_cap
        self._own = self._capped(models)
        self.models = self._own

    @property
    def default(self) -> ModelSpec:
        """Model for requests that name none: the first."""
        return next(iter(self.models.values()))

    def get(self, model_id: str) -> ModelSpec | None:
        """Return the model with that id, or None if it is not served."""
        return self.models.get(model_id)

    def now(self) -> Self:
        """Return the catalog as it is, for one request: a model that leaves meanwhile stays in it."""
        return copy(self)

    def follow(self, announced: list[ModelSpec]) -> None:
        """Serve the file's models and the models that workers announce. The file's entries take precedence."""
        self.models = self._own | self._capped([model for model in announced if model.id not in self._own])

    def _capped(self, models: list[ModelSpec]) -> dict[str, ModelSpec]:
        return {
            model.id: model.model_copy(update={"max_batch": min(model.max_batch, self._queue_cap)}) for model in models
        }

    @classmethod
    def load(cls, path: Path | None, queue_cap: float = math.inf) -> "Catalog":
        """Read a catalog file (a JSON array of models), or the built-in catalog.

        Raises:
            CatalogError: the file is missing, is not JSON, has no models, repeats an id, or has an invalid field.
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
            if first["type"] == "extra_forbidden":
                message = f"unknown field; allowed: {', '.join(_fields_beside(first['loc']))}"
            raise CatalogError(": ".join([f"catalog {path}", *where, message])) from error
        catalog = cls(models, queue_cap)
        if not models:
            raise CatalogError(f"catalog {path}: contains no models")
        if len(catalog.models) < len(models):
            raise CatalogError(f"catalog {path}: a model id appears twice; allowed: each id once")
        for model in models:
            if "family" in model.model_fields_set:
                _note_family(f"{path}", model.id)
        return catalog


@cache
def _note_family(catalog: str, model: str) -> None:
    """Log once per process that an entry sets an unused field."""
    log.warning("catalog %s: model %s: family no longer has an effect; remove it", catalog, model)


def _fields_beside(place: tuple[int | str, ...]) -> list[str]:
    """List the fields of the object in a catalog file that has the field at this place."""
    model: type[BaseModel] = ModelSpec
    for name in (part for part in place[:-1] if isinstance(part, str)):
        annotation = model.model_fields[name].annotation
        inside = (annotation, *get_args(annotation))
        model = next(each for each in inside if isinstance(each, type) and issubclass(each, BaseModel))
    return list(model.model_fields)


def named(text: bytes, place: tuple[int | str, ...]) -> list[str]:
    """Name the place of an error in a catalog file: the model, by id if possible, and the field."""
    if not place:
        return []
    index, *field = place
    entry = from_json(text)[index]
    name = entry.get("id", index) if isinstance(entry, dict) else index
    return [f"model {name}", *([".".join(map(str, field))] if field else [])]
