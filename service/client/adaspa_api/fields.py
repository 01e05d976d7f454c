"""The fields of a job, each of them once: type, default, limits, help, what it does not go with, since when.

All else is made of these rows: the request (``VideoCreate``), a job's parameters and the video object, the catalog's
limits, ``GET /models`` as JSON Schema, from which the page draws its form, the options of the command line, the
client's ``VideoFields`` (``make field-tables``) and the tables of the documents.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from adaspa_api.limits import Choice, Entry, Length, Limit, Picture, Range, Served, StepsRange, Switch, Text, Url
from adaspa_api.loras import Loras, LoraUse
from adaspa_api.metadata import Name, Pairs
from adaspa_api.words import Fit, OutputFormat, Priority, Quality, Role

MAX_SEED = 2**63 - 1
MAX_URL_CHARS = 2048
ROLES = {"input_reference": Role.first, "last_frame": Role.last}
"""What an image is to the video, by its field."""
EXAMPLE: JsonDict = {
    "prompt": "a large yellow star moves right on a navy background",
    "model": "demo",
    "steps": 24,
    "seed": 7,
}
Asked = Mapping[str, Any]
"""The fields of a request with every default filled in, by name."""


@dataclass(frozen=True)
class Row:
    """What there is to a field beside its name, type, default and help.

    Args:
        limits: what it may be.
        label: what people see.
        option: the command line's, where that is not the field's name.
        metavar: what stands for its value there.
        clash: what it does not go with: why it is refused and what is allowed, or None.
        by_hand: whether it is one of AdaSpa's settings that go without a preset.
        since: the version of the job record that brought it.
    """

    limits: Limit
    label: str
    option: str | None = None
    metavar: str | None = None
    clash: Callable[[Asked, Entry], str | None] = lambda asked, entry: None
    by_hand: bool = False
    since: int = 1


def _needs_guidance(asked: Asked, entry: Entry) -> str | None:
    scale = asked["guidance_scale"]
    if not asked["negative_prompt"] or entry.heeds_negative(scale):
        return None
    if not entry.negative_prompt:
        return f"has no effect with model {entry.id}; allowed: none"
    return f"has no effect with guidance_scale {scale:g}; allowed: none, or a guidance_scale over 1"


def _needs_the_first(asked: Asked, entry: Entry) -> str | None:
    scale = asked["guidance_scale"]
    if scale > 1:
        return None
    return f"has no effect with guidance_scale {scale:g}; allowed: none, or a guidance_scale over 1"


def _preset_or_settings(asked: Asked, entry: Entry) -> str | None:
    settings = [name for name, row in rows(Kept).items() if row.by_hand and asked[name] is not None]
    return f"comes with {', '.join(settings)}; allowed: a preset or settings" if settings else None


def _one_way(asked: Asked, entry: Entry) -> str | None:
    return None if asked["sparsity"] is None else "comes with sparsity; allowed: one of the two"


def _not_dense(asked: Asked, entry: Entry) -> str | None:
    return "has no effect with sparsity 0, which is dense throughout; allowed: none" if asked["sparsity"] == 0 else None


def _one_task(asked: Asked, entry: Entry) -> str | None:
    """Of the last frame, and where there is none of the first."""
    given = frozenset(role for name, role in ROLES.items() if asked[name] is not None)
    if given in {task.roles for task in entry.tasks}:
        return None
    if Role.first not in given:
        return "comes without input_reference, the first frame; allowed: both"
    return f"is not offered so with model {entry.id}; allowed with it: {', '.join(entry.tasks)}"


def _an_image(asked: Asked, entry: Entry) -> str | None:
    return None if any(asked[name] for name in ROLES) else "has no effect without an image; allowed: none"


def _a_sound(asked: Asked, entry: Entry) -> str | None:
    if not entry.audio:
        return f"model {entry.id} makes no sound; allowed: none"
    holding = [name for name in OutputFormat if name.holds_sound]
    if not asked["audio"] or asked["output_format"] in holding:
        return None
    return f"{asked['output_format']} holds no sound; allowed: false, or an output_format of {', '.join(holding)}"


class Scene(BaseModel):
    """What is made, by which model."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    prompt: Annotated[str, Row(Text(least=1), "Prompt")]
    """What the video shows."""
    model: Annotated[str | None, Row(Served(), "Model")] = None
    """One of the served models; default: the first."""


class Frame(Scene):
    """Fields of a request that come to others of the job."""

    size: Annotated[str | None, Row(Choice("sizes", first=True), "Size", metavar="WxH")] = None
    """WIDTHxHEIGHT in pixels."""
    seconds: Annotated[str | float | None, Row(Length(), "Seconds")] = None
    """Length of the clip; it has to come out at an allowed number of frames."""
    input_reference: Annotated[
        str | None, Row(Picture(Role.first), "First frame", option="--image", metavar="FILE|URL", clash=_one_task)
    ] = None
    """The image that the video begins with. A file of a form, a data URI or a URL, with models whose `tasks` take one.
    Without `size` its shape chooses one of the model's sizes."""
    last_frame: Annotated[
        str | None, Row(Picture(Role.last), "Last frame", option="--last-image", metavar="FILE|URL", clash=_one_task)
    ] = None
    """The image that the video ends with. Given the same ways, beside `input_reference`."""
    fit: Annotated[str | None, Row(Choice(words=Fit, taken="takes_images"), "Fit", clash=_an_image)] = None
    """How an image of another shape gets the video's size: `cover` cuts two sides off, `contain` leaves two black.
    Default: `cover`."""


class Kept(Scene):
    """The fields that a job keeps under the same name. None: not given, which leaves it to the model."""

    num_frames: Annotated[
        int | None, Row(Choice("frames", "default_frames"), "Frames", option="--frames", metavar="N")
    ] = None
    """Number of frames."""
    fps: Annotated[int | None, Row(Range("fps_range", "fps"), "FPS")] = None
    """Frames per second."""
    steps: Annotated[int | None, Row(Range("steps_range", "default_steps"), "Steps")] = None
    """Denoising steps."""
    guidance_scale: Annotated[
        float | None, Row(Range("guidance_range", "default_guidance"), "Guidance scale", option="--guidance")
    ] = None
    """Guidance scale."""
    guidance_scale_2: Annotated[
        float | None,
        Row(
            Range("guidance_scale_2_range", each=Annotated[float, Field(ge=0)]),
            "Guidance scale of the second expert",
            clash=_needs_the_first,
        ),
    ] = None
    """Guidance scale of Wan 2.2's second expert, which takes over at low noise. Default: the model's own. It is refused
    where it would have no effect: with a `guidance_scale` of 1."""
    negative_prompt: Annotated[
        str | None,
        Row(
            Text(least=0, taken="negative_prompt"),
            "Negative prompt",
            option="--negative",
            metavar="TEXT",
            clash=_needs_guidance,
        ),
    ] = None
    """What the video does not show. It is refused where it would have no effect: with models that take none, and with a
    `guidance_scale` of 1."""
    seed: Annotated[int | None, Row(Range((0, MAX_SEED)), "Seed")] = None
    """The same seed and fields give the same video; default: drawn, and shown in the answer."""
    quality: Annotated[str | None, Row(Choice("qualities", words=Quality), "Quality", clash=_preset_or_settings)] = None
    """AdaSpa's preset: `exact` (dense attention), `quality`, `balanced`, `fast`. Default: the model's own settings."""
    sparsity: Annotated[
        float | None,
        Row(
            Range("sparsity_range", each=Annotated[float, Field(ge=0, lt=1)], usual=(0.0, 0.99)),
            "Sparsity",
            by_hand=True,
        ),
    ] = None
    """Share of the attention blocks that sparse steps leave out. Instead of a preset; 0 is dense attention."""
    retained_mass: Annotated[
        float | None,
        Row(
            Range("retained_mass_range", each=Annotated[float, Field(gt=0, lt=1)], usual=(0.5, 0.999)),
            "Retained mass",
            by_hand=True,
            clash=_one_way,
        ),
    ] = None
    """Share of the attention mass that sparse steps keep. Instead of a preset or `sparsity`."""
    warmup: Annotated[
        int | None, Row(StepsRange("warmup_range"), "Dense steps at the start", by_hand=True, clash=_not_dense)
    ] = None
    """Dense steps, before the first search. Instead of a preset's."""
    flow_shift: Annotated[
        float | None, Row(Range("flow_shift_range", each=Annotated[float, Field(gt=0)]), "Flow shift")
    ] = None
    """How far the steps are shifted towards noise. Wan 2.1 wants 3 at 480p and 5 at 720p; default: the model's own."""
    loras: Annotated[
        list[LoraUse] | str | None, Row(Loras(), "LoRA adapters", option="--lora", metavar="NAME[:SCALE],...")
    ] = None
    """LoRA adapters of the model's `loras`. A list of objects with `name` and `scale`, or a text: `NAME:SCALE` between
    commas. Those that the model has by default stay unless they are named with another scale; 0 is without one."""
    output_format: Annotated[str | None, Row(Choice("output_formats", first=True, words=OutputFormat), "Format")] = None
    """The format of the video's file, one of the model's `output_formats`. Default: the first of them."""
    audio: Annotated[bool | None, Row(Switch("audio"), "Sound", option="--audio/--no-audio", clash=_a_sound)] = None
    """Whether the video has sound. Default: the model's own, where the format holds it; `false` leaves it out. It is
    refused with models that make none."""


class Settled(Kept):
    """The same of a job, which has a value wherever the model has a default."""

    model: str
    num_frames: int
    fps: int
    steps: int
    guidance_scale: float
    seed: int
    quality: Quality | None = None
    loras: list[LoraUse] | None = None
    output_format: OutputFormat


WebhookUrl = Annotated[
    str | None,
    Row(Url(MAX_URL_CHARS), "Webhook", metavar="URL"),
    Field(
        max_length=MAX_URL_CHARS,
        description="An https URL that gets the event of the job's end, signed: see `webhooks`. It is shown nowhere.",
    ),
]

Metadata = Annotated[
    dict[str, str] | str | None,
    Row(Pairs(), "Metadata", metavar="KEY=VALUE,..."),
    Field(
        description="Up to 16 pairs of texts of the client's own, shown with the job. `GET /videos` can be filtered by "
        "them. An object, in a form also `metadata[KEY]`, or a text: `KEY=VALUE` between commas."
    ),
]
User = Annotated[
    str | None,
    Row(Name(), "User", metavar="NAME"),
    Field(description="The client's own name for whom the job is; shown with the job, and without any effect."),
]


class VideoCreate(Kept, Frame):
    """What ``POST /videos`` takes; only the prompt is required. ``GET /models`` tells what a model allows."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": EXAMPLE})

    n: Annotated[int | None, Row(Range((1, "max_batch"), default=1), "Videos")] = None
    """Number of videos, each with the next seed. All are accepted or none, up to the model's `max_batch`; the answer is
    then a list, also for 1."""
    priority: Annotated[Literal["interactive", "bulk"] | None, Row(Choice(words=Priority), "Priority")] = None
    """The queue to wait in. Bulk jobs get a share of the workers while interactive ones wait. Default: bulk if the
    request is much more work than the model's default one, which may not be interactive."""
    webhook_url: WebhookUrl = None
    metadata: Metadata = None
    user: User = None


@cache
def rows(model: type[BaseModel]) -> dict[str, Row]:
    """The rows that a class declares, by the field's name."""
    fields = model.model_fields.items()
    return {name: part for name, field in fields for part in field.metadata if isinstance(part, Row)}
