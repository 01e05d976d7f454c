"""From a request to job parameters: defaults from the catalog, everything else refused with what is allowed."""

import math
import secrets
from collections.abc import Sequence
from typing import TypeVar

from adaspa_api.videos import MAX_URL_CHARS, VideoCreate
from adaspa_api.words import OutputFormat, Priority, Quality
from adaspa_jobs.catalog import Catalog, ModelSpec
from adaspa_jobs.job import Job, JobParams

from adaspa_service.gateway.errors import bad_field
from adaspa_service.views import seconds_text

Number = TypeVar("Number", int, float)
Default = TypeVar("Default", int, float, str, None)

MAX_SEED = 2**63 - 1


def resolve(asked: VideoCreate, catalog: Catalog) -> JobParams:
    """The parameters of the job that was asked for. A seed is drawn if none is given.

    Raises:
        ApiError: 400 with the field and what is allowed.
    """
    spec = catalog.default if asked.model is None else catalog.get(asked.model)
    if spec is None:
        message = f"model: {shown(asked.model)} is not served; allowed: {', '.join(catalog.models)}"
        raise bad_field("model", message, "model_not_found")
    fps = within("fps", asked.fps, spec.fps, spec.fps_range)
    width, height = map(int, one_of("size", asked.size, spec.sizes[0], spec.sizes).split("x"))
    steps = within("steps", asked.steps, spec.default_steps, spec.steps_range)
    check_one_way(asked)
    guidance = within("guidance_scale", asked.guidance_scale, spec.default_guidance, spec.guidance_range)
    check_negative(asked, spec, guidance)
    quality = one_of("quality", asked.quality, None, spec.qualities)
    return JobParams(
        model=spec.id,
        prompt=text("prompt", asked.prompt, 1, spec),
        negative_prompt=None
        if asked.negative_prompt is None
        else text("negative_prompt", asked.negative_prompt, 0, spec),
        width=width,
        height=height,
        num_frames=frame_count(asked, spec, fps),
        fps=fps,
        steps=steps,
        guidance_scale=guidance,
        seed=within("seed", asked.seed, secrets.randbelow(2**32), (0, MAX_SEED)),
        quality=None if quality is None else Quality(quality),
        sparsity=within("sparsity", asked.sparsity, None, spec.sparsity_range),
        retained_mass=within("retained_mass", asked.retained_mass, None, spec.retained_mass_range),
        warmup=within("warmup", asked.warmup, None, warmup_limits(spec, steps)),
        output_format=OutputFormat(
            one_of("output_format", asked.output_format, spec.output_formats[0], spec.output_formats)
        ),
    )


def batch(asked: VideoCreate, catalog: Catalog) -> list[JobParams]:
    """The parameters of each job that was asked for: ``n`` of them, with seeds that follow one another.

    Raises:
        ApiError: 400 with the field and what is allowed.
    """
    params = resolve(asked, catalog)
    n = within("n", asked.n, 1, (1, catalog.models[params.model].max_batch))
    if params.seed > MAX_SEED - (n - 1):
        raise bad_field("seed", f"seed: {params.seed} is out of range; allowed with n {n}: 0 to {MAX_SEED - (n - 1)}")
    return [params.model_copy(update={"seed": params.seed + i}) for i in range(n)]


def remix(source: Job, prompt: str, catalog: Catalog) -> JobParams:
    """The parameters of a job with another prompt, checked against what the model allows now.

    Raises:
        ApiError: 400 with the field and what is allowed.
    """
    kept = source.params.model_dump(mode="json", include=set(VideoCreate.model_fields))
    size = f"{source.params.width}x{source.params.height}"
    asked = VideoCreate.model_validate({**kept, "prompt": prompt, "size": size})
    return resolve(asked, catalog).model_copy(update={"remixed_from": source.id})


def check_one_way(asked: VideoCreate) -> None:
    """Refuse a preset together with settings of its own, and two ways of choosing blocks."""
    settings = [name for name in ("sparsity", "retained_mass", "warmup") if getattr(asked, name) is not None]
    if asked.quality is not None and settings:
        raise bad_field("quality", f"quality: comes with {', '.join(settings)}; allowed: a preset or settings")
    if asked.sparsity is not None and asked.retained_mass is not None:
        raise bad_field("retained_mass", "retained_mass: comes with sparsity; allowed: one of the two")
    if asked.sparsity == 0 and asked.warmup is not None:
        raise bad_field("warmup", "warmup: has no effect with sparsity 0, which is dense throughout; allowed: none")


def check_negative(asked: VideoCreate, spec: ModelSpec, guidance: float) -> None:
    """Refuse a negative prompt where the model takes none, or only at another guidance scale."""
    if not asked.negative_prompt or spec.heeds_negative(guidance):
        return
    if not spec.negative_prompt:
        raise bad_field("negative_prompt", f"negative_prompt: has no effect with model {spec.id}; allowed: none")
    why = f"has no effect with guidance_scale {guidance:g}; allowed: none, or a guidance_scale over 1"
    raise bad_field("negative_prompt", f"negative_prompt: {why}")


def warmup_limits(spec: ModelSpec, steps: int) -> tuple[int, int]:
    """How many of a job's steps may be dense at the start; one at least is left to be sparse."""
    low, high = spec.warmup_range
    most = min(math.floor(high * steps), steps - 1)
    return min(math.ceil(low * steps), most), most


def allowed(field: str, catalog: Catalog, model: object) -> str:
    """What a field may be, in words; of the default model where ``model`` is no served one."""
    spec = (catalog.get(model) if isinstance(model, str) else None) or catalog.default
    return {
        "prompt": f"a text of 1 to {spec.max_prompt_chars} characters",
        "negative_prompt": f"a text of 0 to {spec.max_prompt_chars} characters",
        "model": ", ".join(catalog.models),
        "size": ", ".join(spec.sizes),
        "seconds": lengths(spec, spec.fps),
        "num_frames": ", ".join(map(str, spec.frames)),
        "fps": "{} to {}".format(*spec.fps_range),
        "steps": "{} to {}".format(*spec.steps_range),
        "guidance_scale": "{} to {}".format(*spec.guidance_range),
        "seed": f"0 to {MAX_SEED}",
        "quality": ", ".join(spec.qualities),
        "sparsity": "{} to {}".format(*spec.sparsity_range),
        "retained_mass": "{} to {}".format(*spec.retained_mass_range),
        "warmup": "{} to {}".format(*warmup_limits(spec, spec.default_steps)),
        "output_format": ", ".join(spec.output_formats),
        "n": f"1 to {spec.max_batch}",
        "priority": ", ".join(Priority),
        "webhook_url": f"a URL of up to {MAX_URL_CHARS} characters",
    }[field]


def resolve_priority(asked: str | None, spec: ModelSpec, cost: float) -> Priority:
    """Which queue a request waits in: bulk if it costs more than the catalog has for the other one, or if asked for.

    Raises:
        ApiError: 400, if interactive is asked for a request that costs too much.
    """
    if cost <= spec.bulk_above:
        return Priority(asked or Priority.interactive)
    if asked == Priority.interactive:
        why = f"the request is {cost:.3g} times the work of the default one, and the limit {spec.bulk_above:g} times"
        raise bad_field("priority", f"priority: interactive is not offered, {why}; allowed: bulk")
    return Priority.bulk


def text(name: str, value: str, least: int, spec: ModelSpec) -> str:
    """The text, if its length is allowed and it is more than blanks where it has to be."""
    limits = f"allowed: {least} to {spec.max_prompt_chars} characters"
    if len(value) > spec.max_prompt_chars:
        raise bad_field(name, f"{name}: {len(value)} characters; {limits}")
    if least and not value.strip():
        raise bad_field(name, f"{name}: is empty; {limits}")
    return value


def within(name: str, value: Number | None, default: Default, limits: tuple[Number, Number]) -> Number | Default:
    """The value, or the default if there is none; refused outside the limits."""
    if value is None:
        return default
    low, high = limits
    if not low <= value <= high:
        raise bad_field(name, f"{name}: {shown(value)} is out of range; allowed: {low} to {high}")
    return value


def one_of(name: str, value: str | None, default: Default, choices: Sequence[str]) -> str | Default:
    """The value, or the default if there is none; refused if it is not a choice."""
    if value is None:
        return default
    if value not in choices:
        raise bad_field(name, f"{name}: {shown(value)} is not offered; allowed: {', '.join(choices)}")
    return value


def frame_count(asked: VideoCreate, spec: ModelSpec, fps: int) -> int:
    """The number of frames, from ``num_frames`` or ``seconds``; if both are given they have to agree.

    A clip of n frames lasts n / fps seconds, which is what a video object reports; counted from its first to its
    last frame that is (n - 1) / fps, so that 33 frames at 8 a second may also be asked for as 4 seconds.
    """
    frames = int(one_of("num_frames", _text(asked.num_frames), str(spec.default_frames), list(map(str, spec.frames))))
    if asked.seconds is None:
        return frames
    try:
        seconds = float(asked.seconds)
    except ValueError:
        seconds = math.nan
    fitting = [n for n in spec.frames if abs(n / fps - seconds) < 0.001 or abs((n - 1) / fps - seconds) < 0.001]
    if not fitting:
        message = f"seconds: {shown(asked.seconds)} is not offered; allowed at {fps} fps: {lengths(spec, fps)}"
        raise bad_field("seconds", message)
    if asked.num_frames is None:
        return fitting[0]
    if frames not in fitting:
        message = f"seconds: {shown(asked.seconds)} at {fps} fps is not num_frames {frames}; allowed: one of the two"
        raise bad_field("seconds", message)
    return frames


def lengths(spec: ModelSpec, fps: int) -> str:
    """The lengths of clips at this frame rate, in words."""
    return ", ".join(f"{seconds_text(n / fps)} ({n} frames)" for n in spec.frames)


def shown(value: object) -> str:
    """A value of the client's, short enough to repeat to it."""
    words = repr(value)
    return words if len(words) <= 60 else f"{words[:57]}..."


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)
