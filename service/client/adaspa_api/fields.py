"""Fields of a job, each defined once: type, default, limits, help, conflicts, and the version that added it.

Everything else derives from these rows: the request (``VideoCreate``), a job's parameters and the video object, the
catalog's limits, ``GET /models`` as JSON Schema, from which the page draws its form, the options of the command line,
the client's ``VideoFields`` (``make field-tables``) and the tables of the documents.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from adaspa_api.limits import Choice, Entry, Length, Limit, Media, Range, Served, StepsRange, Switch, Text, Url
from adaspa_api.loras import Loras, LoraUse, Uses
from adaspa_api.metadata import Name, Pairs
from adaspa_api.words import Fit, OutputFormat, Priority, Quality, Role

MAX_SEED = 2**53 - 1
"""Largest number that all readers of JSON hold exactly: browsers would send another seed back."""
MAX_URL_CHARS = 2048
EXAMPLE: JsonDict = {
    "prompt": "a large yellow star moves right on a navy background",
    "model": "demo",
    "steps": 24,
    "seed": 7,
}
Asked = Mapping[str, Any]
"""A request's fields by name, with all defaults filled in."""


@dataclass(frozen=True)
class Row:
    """Metadata of a field beyond its name, type, default and help.

    Args:
        limits: allowed values.
        label: name shown to people.
        option: command-line option, if it differs from the field's name.
        metavar: placeholder for the value in the command line's help.
        clash: returns why the field conflicts with the others and what is allowed, or None.
        by_hand: whether the field is an AdaSpa setting that replaces a preset.
        since: version of the job record that added the field.
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
    return f"cannot be combined with {', '.join(settings)}; allowed: a preset or settings" if settings else None


def _one_way(asked: Asked, entry: Entry) -> str | None:
    return None if asked["sparsity"] is None else "cannot be combined with sparsity; allowed: one of the two"


def _not_dense(asked: Asked, entry: Entry) -> str | None:
    return "has no effect with sparsity 0, which is fully dense; allowed: none" if asked["sparsity"] == 0 else None


def _one_task(asked: Asked, entry: Entry) -> str | None:
    """Check that the images, the video or the sound given add up to one of the model's tasks."""
    given = frozenset(role for name, role in ROLES.items() if asked[name] is not None)
    if given in {task.roles for task in entry.tasks}:
        return None
    if given == {Role.last}:
        return "needs input_reference, the first frame, too; allowed: both"
    if given == {Role.audio}:
        return "needs reference_image too; allowed: both"
    return f"model {entry.id} does not support this combination of inputs; it supports: {', '.join(entry.tasks)}"


def _goes_on(asked: Asked, entry: Entry) -> str | None:
    if (why := _one_task(asked, entry)) is not None:
        return why
    taken = entry.start_frames
    if asked["num_frames"] > taken:
        return None
    longer = [frames for frames in entry.frames if frames > taken]
    return f"its last {taken} frames begin the clip, which has {asked['num_frames']}; allowed: num_frames of {longer}"


def _a_frame(asked: Asked, entry: Entry) -> str | None:
    if any(asked[name] for name, role in ROLES.items() if role.is_in_frame):
        return None
    return "has no effect without an image or a video that becomes part of the clip; allowed: none"


def _a_sound(asked: Asked, entry: Entry) -> str | None:
    if not entry.audio:
        return f"model {entry.id} does not generate sound; allowed: none"
    if not asked["audio"] or OutputFormat[asked["output_format"]].holds_sound:
        return None
    holding = [name for name in OutputFormat if name.holds_sound and name in entry.output_formats]
    other = f", or output_format {' or '.join(holding)}" if holding else ""
    return f"{asked['output_format']} cannot hold sound; allowed: false{other}"


def _not_too_fast(asked: Asked, entry: Entry) -> str | None:
    output = OutputFormat[asked["output_format"]]
    if output.max_fps is None or asked["fps"] <= output.max_fps:
        return None
    unlimited = [name for name in OutputFormat if name.max_fps is None and name in entry.output_formats]
    allowed = [f"fps up to {output.max_fps}"] if entry.fps_range[0] <= output.max_fps else []
    allowed += [f"output_format {' or '.join(unlimited)}"] if unlimited else []
    return (
        f"browsers play {output} at up to {output.max_fps} frames per second, and {asked['fps']} far too slowly; "
        f"allowed: {', or '.join(allowed)}"
    )


class Scene(BaseModel):
    """Prompt and model."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    prompt: Annotated[str, Row(Text(least=1), "Prompt")]
    """Text that describes the video."""
    model: Annotated[str | None, Row(Served(), "Model")] = None
    """Model to use. Default: the first served model."""


class Frame(Scene):
    """Request fields that the job stores in another form."""

    size: Annotated[str | None, Row(Choice("sizes", first=True), "Size", metavar="WxH")] = None
    """Width and height in pixels, as WIDTHxHEIGHT."""
    seconds: Annotated[str | float | None, Row(Length(), "Seconds")] = None
    """Length of the clip in seconds. It must match an allowed number of frames."""
    input_reference: Annotated[
        str | None, Row(Media(Role.first), "First frame", option="--image", metavar="FILE|URL", clash=_one_task)
    ] = None
    """Image to start the video from. Send a form file, a data URI or a URL; the model's `tasks` must include image
    input. If `size` is not set, the model's size closest in shape is used."""
    last_frame: Annotated[
        str | None, Row(Media(Role.last), "Last frame", option="--last-image", metavar="FILE|URL", clash=_one_task)
    ] = None
    """Image to end the video with. Send it like `input_reference`, which is required with it."""
    start_video: Annotated[str | None, Row(Media(Role.start), "Start video", metavar="FILE|URL", clash=_goes_on)] = None
    """Video to continue: the new clip begins with its last frames. Send it like `input_reference`, without any image.
    The model's `start_frames` says how many frames; they are taken at the requested `fps`."""
    reference_image: Annotated[
        str | None, Row(Media(Role.reference), "Reference image", metavar="FILE|URL", clash=_one_task)
    ] = None
    """Image of a person, animal or thing to show in the video; the video does not begin with it. Send it like
    `input_reference`, without any other image. It is kept whole, in its own shape."""
    reference_audio: Annotated[
        str | None, Row(Media(Role.audio), "Reference audio", metavar="FILE|URL", clash=_one_task)
    ] = None
    """Voice or music for the video's sound to follow; it is not the video's sound itself. Send it like
    `input_reference`, together with `reference_image`. As much of it is used as the video is long."""
    fit: Annotated[str | None, Row(Choice(words=Fit, taken="takes_images"), "Fit", clash=_a_frame)] = None
    """How to fit an image or video of another shape: `cover` crops two sides, `contain` adds black bars. Default:
    `cover`."""


class Kept(Scene):
    """Fields that a job stores under the same name. None means not given: the model's default applies."""

    num_frames: Annotated[
        int | None, Row(Choice("frames", "default_frames"), "Frames", option="--frames", metavar="N")
    ] = None
    """Number of frames."""
    fps: Annotated[int | None, Row(Range("fps_range", "fps"), "FPS", clash=_not_too_fast)] = None
    """Frames per second."""
    steps: Annotated[int | None, Row(Range("steps_range", "default_steps"), "Steps")] = None
    """Denoising steps."""
    guidance_scale: Annotated[
        float | None, Row(Range("guidance_range", "default_guidance"), "Guidance scale", option="--guidance")
    ] = None
    """How strongly the video follows the prompt (classifier-free guidance scale)."""
    guidance_scale_2: Annotated[
        float | None,
        Row(
            Range("guidance_scale_2_range", each=Annotated[float, Field(ge=0)]),
            "Guidance scale of the second expert",
            clash=_needs_the_first,
        ),
    ] = None
    """Guidance scale of Wan 2.2's second expert, which handles low noise. Default: the model's own. Requires a
    `guidance_scale` over 1; otherwise the request is rejected."""
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
    """Text that describes what to keep out of the video. Requires a model that supports it and a `guidance_scale` over
    1; otherwise the request is rejected."""
    seed: Annotated[int | None, Row(Range((0, MAX_SEED)), "Seed")] = None
    """Seed of the random noise. The same seed and fields give the same video. The lower 32 bits count: seeds that
    differ by a multiple of 2^32 give the same video too. Default: random; the response shows it."""
    quality: Annotated[str | None, Row(Choice("qualities", words=Quality), "Quality", clash=_preset_or_settings)] = None
    """AdaSpa preset: `exact` (dense attention), `quality`, `balanced` or `fast`. Default: the model's own settings."""
    sparsity: Annotated[
        float | None,
        Row(
            Range("sparsity_range", each=Annotated[float, Field(ge=0, lt=1)], usual=(0.0, 0.99)),
            "Sparsity",
            by_hand=True,
        ),
    ] = None
    """Share of the attention blocks that sparse steps skip. 0 means dense attention. Cannot be combined with a
    preset."""
    retained_mass: Annotated[
        float | None,
        Row(
            Range("retained_mass_range", each=Annotated[float, Field(gt=0, lt=1)], usual=(0.5, 0.999)),
            "Retained mass",
            by_hand=True,
            clash=_one_way,
        ),
    ] = None
    """Share of the attention mass that sparse steps keep. Cannot be combined with a preset or `sparsity`."""
    warmup: Annotated[
        int | None, Row(StepsRange("warmup_range"), "Dense steps at the start", by_hand=True, clash=_not_dense)
    ] = None
    """Number of dense steps before the first search. Cannot be combined with a preset."""
    flow_shift: Annotated[
        float | None, Row(Range("flow_shift_range", each=Annotated[float, Field(gt=0)]), "Flow shift")
    ] = None
    """How far the steps shift towards noise. For Wan 2.1, use 3 at 480p and 5 at 720p. Default: the model's own."""
    loras: Annotated[Uses | str | None, Row(Loras(), "LoRA adapters", option="--lora", metavar="NAME[:SCALE],...")] = (
        None
    )
    """LoRA adapters to apply, from the model's `loras`. A list of objects with `name` and `scale` (in a form, as JSON),
    or a comma-separated `NAME:SCALE` string. The model's default adapters stay on; to change or disable one, name it
    with another scale or 0."""
    output_format: Annotated[
        str | None, Row(Choice("output_formats", first=True, words=OutputFormat), "Format", clash=_not_too_fast)
    ] = None
    """File format of the video, one of the model's `output_formats`. Default: the first of them."""
    audio: Annotated[bool | None, Row(Switch("audio"), "Sound", option="--audio/--no-audio", clash=_a_sound)] = None
    """Whether to include sound. Default: on, if the model generates sound and the format can hold it. Rejected for
    models without sound."""


class Settled(Kept):
    """Fields of a job once more, with the model's defaults filled in."""

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
        description="HTTPS URL to notify when the job ends, with a signed event: see `webhooks`. Never shown again.",
    ),
]

Metadata = Annotated[
    dict[str, str] | str | None,
    Row(Pairs(), "Metadata", metavar="KEY=VALUE,..."),
    Field(
        description="Up to 16 key-value pairs to store with the job. `GET /videos` can filter by them. Send an object, "
        "`metadata[KEY]` form fields, or a comma-separated `KEY=VALUE` string."
    ),
]
User = Annotated[
    str | None,
    Row(Name(), "User", metavar="NAME"),
    Field(description="Your own name for the end user. Shown with the job; has no other effect."),
]


class VideoCreate(Kept, Frame):
    """Body of ``POST /videos``. Only the prompt is required; ``GET /models`` lists what each model allows."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": EXAMPLE})

    n: Annotated[int | None, Row(Range((1, "max_batch"), default=1), "Videos")] = None
    """Number of videos to create, with consecutive seeds. All are accepted or none, up to the model's `max_batch`. If
    set, even to 1, the response is a list."""
    priority: Annotated[Literal["interactive", "bulk"] | None, Row(Choice(words=Priority), "Priority")] = None
    """Queue to wait in. Bulk jobs get a share of the workers while interactive jobs wait. Default: interactive, but
    bulk for requests far larger than the model's default one. Such requests cannot be interactive."""
    webhook_url: WebhookUrl = None
    metadata: Metadata = None
    user: User = None


@cache
def rows(model: type[BaseModel]) -> dict[str, Row]:
    """Return the rows that a class declares, by field name."""
    fields = model.model_fields.items()
    return {name: part for name, field in fields for part in field.metadata if isinstance(part, Row)}


ROLES = {name: row.limits.role for name, row in rows(Frame).items() if isinstance(row.limits, Media)}
"""Role of each image, video or sound field."""
