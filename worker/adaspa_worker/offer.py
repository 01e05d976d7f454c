"""Checks of what a catalog entry offers against its model's folder, before a worker takes a job.

The pipelines round sizes and frames without a word, or fail after minutes of work; both would be the first client's.
"""

from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from adaspa_api.words import Task
from adaspa_jobs.catalog import ModelSpec

from adaspa_worker import formats
from adaspa_worker.call_arguments import TAKEN, call_arguments, fits
from adaspa_worker.families import (
    FAMILIES,
    Family,
    Limits,
    limits_of,
    pipeline_of,
    read,
    transformer_of,
    transformers_of,
)
from adaspa_worker.hub import first_line, index_of, unused
from adaspa_worker.loras import files as lora_files
from adaspa_worker.schedulers import IN_FLOWS, flows, options_of, shift_field, spacing
from adaspa_worker.shares import parallelism
from adaspa_worker.source import ModelUnavailable

WITH_SIGMAS = {
    *("LTXPipeline", "LTXImageToVideoPipeline", "LTX2Pipeline", "LTX2ImageToVideoPipeline", "MochiPipeline"),
}
"""Pipelines that give their scheduler noise levels in any case, beside which it takes no timesteps."""


def check(spec: ModelSpec, folder: Path) -> None:
    """Check that a model can do all that its catalog entry offers.

    Args:
        spec: the entry.
        folder: of its model, whole.

    Raises:
        ModelUnavailable: one line with the model, the field and what is allowed.
    """
    pipeline = pipeline_of(folder)
    family, found = FAMILIES[pipeline], transformer_of(folder).get("_class_name")
    if found != family.transformer:
        raise wrong(spec, "source", f"{pipeline} needs a {family.transformer}, but {folder} has a {found}")
    try:
        limits = limits_of(folder)
    except KeyError as error:
        raise wrong(spec, "source", f"the configuration files of {folder} lack {error}") from error
    check_tasks(spec, family, folder)
    check_sizes(spec, limits)
    check_formats(spec)
    check_frames(spec, limits)
    if limits.fps is not None and set(spec.fps_range) != {limits.fps}:
        raise wrong(
            spec, "fps_range", f"the model generates {limits.fps} frames per second; allowed: {[limits.fps] * 2}"
        )
    if spec.steps_range[0] < limits.steps:
        raise wrong(spec, "steps_range", f"{spec.steps_range[0]} is too low; allowed: {limits.steps} or more")
    if not limits.guided and spec.guidance_range[0] < spec.guidance_range[1]:
        raise wrong(spec, "guidance_range", "the model has no guidance scale; allowed: a range of one number")
    if limits.distilled and spec.negative_prompt and "true_cfg_scale" not in spec.call:
        allowed = "allowed: false, or true_cfg_scale over 1 in call"
        raise wrong(spec, "negative_prompt", f"has no effect; {allowed}")
    if spec.compile and not family.compiles:
        raise wrong(spec, "compile", f"diffusers names no blocks to compile in a {family.transformer}; allowed: false")
    if spec.audio and not family.sound:
        raise wrong(spec, "audio", "the model does not generate sound; allowed: false")
    check_call(spec, limits, folder)
    check_scheduler(spec, folder)
    check_attention(spec)
    check_cache(spec, pipeline, folder)
    check_weights(spec, pipeline)
    check_gguf(spec, pipeline, folder)
    check_loras(spec, folder)
    check_gpus(spec, family, transformer_of(folder))


def check_tasks(spec: ModelSpec, family: Family, folder: Path) -> None:
    index = read(index_of(folder))
    tasks = family.tasks_of(index, transformer_of(folder))
    if more := sorted(set(spec.tasks) - tasks):
        raise wrong(spec, "tasks", f"the model does not support {', '.join(more)}; allowed: {', '.join(sorted(tasks))}")
    if len({unused(index, [task]) for task in spec.tasks}) > 1:
        raise wrong(spec, "tasks", "references need another transformer; allowed: those with them, or those without")


def check_sizes(spec: ModelSpec, limits: Limits) -> None:
    for size in spec.sizes:
        width, height = map(int, size.split("x"))
        if width % limits.side or height % limits.side:
            raise wrong(spec, "sizes", f"{size} is not a multiple of {limits.side}x{limits.side}")
        if width > limits.width or height > limits.height:
            raise wrong(spec, "sizes", f"{size} is too large; allowed: up to {limits.width}x{limits.height}")
        if limits.only_size not in (None, size):
            raise wrong(spec, "sizes", f"{size} is not supported by the model; allowed: {limits.only_size}")


def check_gpus(spec: ModelSpec, family: Family, transformer: dict[str, Any]) -> None:
    """Refuse what several GPUs for one video cannot do; the child that loads the model finds out how many there are."""
    if spec.gpus == 1:
        return
    shared = parallelism(spec, family)
    if shared.guidance > 1 and not family.branches:
        raise wrong(spec, "parallelism.guidance", "the model's guidance branches are not two calls; allowed: 1")
    heads = transformer.get("num_attention_heads")
    if heads is not None and shared.ulysses > heads:
        most = heads * shared.guidance
        raise wrong(
            spec, "gpus", f"{spec.gpus} is more than the model's attention has heads for; allowed: up to {most}"
        )
    if spec.compile:
        raise wrong(spec, "compile", "cannot be used with several gpus; allowed: false")
    if spec.cache is not None:  # it goes by the tokens that a process has: one would leave out a step alone
        raise wrong(spec, "cache", "cannot be used with several gpus; allowed: null")
    if spec.memory.cpu_offload:
        raise wrong(spec, "memory.cpu_offload", "cannot be used with several gpus; allowed: false")
    if spec.attention.get("token_order", "raster") != "raster":
        raise wrong(spec, "attention.token_order", "cannot be used with several gpus; allowed: raster")


def check_formats(spec: ModelSpec) -> None:
    for output_format, size in product(spec.output_formats, spec.sizes):
        try:
            formats.of(output_format).check_size(*map(int, size.split("x")))
        except ValueError as error:
            raise wrong(spec, "output_formats", f"{output_format}: {error}") from error


def check_frames(spec: ModelSpec, limits: Limits) -> None:
    goes_on = Task.video_continuation in spec.tasks
    counts = [("frames", count) for count in spec.frames] + [("start_frames", spec.start_frames)] * goes_on
    for field, count in counts:
        if (count - limits.first) % limits.every:
            raise wrong(spec, field, f"{count} is not a multiple of {limits.every} plus {limits.first}")
    for count in spec.frames:
        if count < limits.least:
            raise wrong(spec, "frames", f"{count} is too few; allowed: {limits.least} or more")
        if count > limits.frames:
            raise wrong(spec, "frames", f"{count} is too many; allowed: up to {limits.frames}")
    if goes_on and spec.start_frames >= max(spec.frames):
        raise wrong(spec, "start_frames", f"{spec.start_frames} would fill the clip; allowed: under {max(spec.frames)}")


def check_call(spec: ModelSpec, limits: Limits, folder: Path) -> None:
    """Check the arguments that the catalog adds to the pipeline's call."""
    pipeline = pipeline_of(folder)
    known = call_arguments(pipeline)
    free = {name: value for name, value in known.items() if name not in TAKEN}
    for name, value in spec.call.items():
        field, default = f"call.{name}", free.get(name)
        if name in TAKEN and name in known:
            raise wrong(spec, field, "is set by the job or the worker; allowed: other arguments")
        if name not in free:
            raise wrong(spec, field, f"is not an argument of {pipeline}; allowed: {', '.join(sorted(free))}")
        if name == "timesteps" and pipeline in WITH_SIGMAS:
            raise wrong(
                spec, field, f"diffusers' {pipeline} fails with it, because it also has noise levels; allowed: none"
            )
        if default is not None and not fits(value, default):
            raise wrong(spec, field, f"{value!r} is not of type {type(default).__name__}")
        if name in ("sigmas", "timesteps") and value is not None and set(spec.steps_range) != {len(value)}:
            raise wrong(spec, "steps_range", f"{field} has {len(value)} steps; allowed: {[len(value)] * 2}")
    told = {"call.guidance_scale_2": spec.call.get("guidance_scale_2")}
    told |= spec.model_dump(include={"guidance_scale_2_range"})
    for field, value in told.items():
        if value is not None and not has_two_experts(folder):
            raise wrong(spec, field, "the model has no second expert (boundary_ratio)")
    text = spec.call.get("max_sequence_length", known.get("max_sequence_length"))
    if limits.text not in (None, text):
        raise wrong(spec, "call.max_sequence_length", f"{text} does not fit the model; allowed: {limits.text}")


def has_two_experts(folder: Path) -> bool:
    """Tell whether one transformer takes the noisier steps and another one the rest, as in Wan 2.2's A14B."""
    return read(index_of(folder)).get("boundary_ratio") is not None


def check_scheduler(spec: ModelSpec, folder: Path) -> None:
    pipeline = pipeline_of(folder)
    own = read(folder / "scheduler" / "scheduler_config.json")
    told = spec.model_dump(include={"flow_shift", "flow_shift_range", "scheduler"}, exclude_none=True)
    for name in told:
        if FAMILIES[pipeline].own_schedule:
            raise wrong(spec, name, f"{pipeline} has its own schedule; allowed: null")
        if name != "scheduler" and shift_field(own) is None and spec.scheduler is None:
            raise wrong(spec, name, "the model's scheduler has no shift; allowed: null")
    if spec.scheduler is None:
        return
    if not flows(own):
        raise wrong(
            spec,
            "scheduler",
            f"the model's own scheduler, {own.get('_class_name')}, is not for flow matching; allowed: null",
        )
    if "audio_scheduler" in read(index_of(folder)):
        raise wrong(spec, "scheduler", "the model has a second scheduler, for sound; allowed: null")
    known = options_of(spec.scheduler.name)
    if others := [name for name in spec.scheduler.options if name not in known]:
        why = f"is not an option of {spec.scheduler.name}; allowed: {', '.join(known)}"
        raise wrong(spec, f"scheduler.options.{others[0]}", why)
    if spec.flow_shift is not None and spec.scheduler.options.get("use_dynamic_shifting"):
        raise wrong(
            spec, "flow_shift", "scheduler.options has use_dynamic_shifting, which sets the shift; allowed: null"
        )
    whole = {name: value for name, value in own.items() if name in known} | spec.scheduler.options
    if (whole.get("algorithm_type"), whole.get("solver_order")) == ("sde-dpmsolver++", 3):
        why = "3 is less exact than 2 for sde-dpmsolver++, by a wrong sign in diffusers 0.42.1; allowed: 1, 2"
        raise wrong(spec, "scheduler.options.solver_order", why)
    anew = spacing(whole)
    if anew and "use_flow_sigmas" in IN_FLOWS[spec.scheduler.name]:
        why = f"does not fit flow matching in a {spec.scheduler.name}; allowed: false"
        raise wrong(spec, f"scheduler.options.{anew}", why)
    for name in told:
        if anew and name != "scheduler":
            raise wrong(spec, name, f"the scheduler has {anew}, with which a shift has no effect; allowed: null")


def check_attention(spec: ModelSpec) -> None:
    from adaspa_worker.attention import operator_config  # noqa: PLC0415  torch: two seconds, which the rest goes without

    try:
        operator_config(spec.attention)
    except (ValueError, TypeError) as error:
        raise wrong(spec, "attention", first_line(error)) from error


def check_cache(spec: ModelSpec, pipeline: str, folder: Path) -> None:
    if spec.cache is None:
        return
    import diffusers  # noqa: PLC0415  seconds, which others go without

    from adaspa_worker.engines import step_cache  # noqa: PLC0415
    from adaspa_worker.pipeline import engine_class  # noqa: PLC0415

    own = str(read(folder / "scheduler" / "scheduler_config.json").get("_class_name"))
    scheduler = getattr(diffusers, own if spec.scheduler is None else spec.scheduler.name, object)
    engine = engine_class(FAMILIES[pipeline].engine)
    transformers = len(transformers_of(folder, spec.tasks))
    pipelines = {engine.with_image or engine.pipeline if task.roles else engine.pipeline for task in spec.tasks}
    try:
        step_cache.check(spec.cache, transformers, scheduler, pipelines)
    except ValueError as error:
        raise wrong(spec, "cache", str(error)) from error


def check_weights(spec: ModelSpec, pipeline: str) -> None:
    if spec.memory.group_offload and pipeline.endswith("ModularPipeline"):
        raise wrong(spec, "memory.group_offload", f"a {pipeline} does without; allowed: false")
    if spec.memory.quantization is None:
        return
    if spec.memory.quantization == "int8" and pipeline.endswith("ModularPipeline"):
        raise wrong(spec, "memory.quantization", f"a {pipeline} cannot load in int8; allowed: null or float8")
    check_installed(spec, "memory.quantization", "torchao")


def check_installed(spec: ModelSpec, field: str, package: str) -> None:
    if find_spec(package) is None:
        why = f"needs {package}, which is not installed (adaspa-serve[quantization])"
        raise wrong(spec, field, f"{why}; allowed until then: null")


def check_gguf(spec: ModelSpec, pipeline: str, folder: Path) -> None:
    if spec.memory.gguf is None:
        return
    check_installed(spec, "memory.gguf", "gguf")
    from adaspa_worker.engines.gguf_file import readable  # noqa: PLC0415  diffusers: seconds, which others go without

    transformer = FAMILIES[pipeline].transformer
    if pipeline.endswith("ModularPipeline") or not readable(transformer):
        raise wrong(spec, "memory.gguf", f"diffusers cannot read a {transformer} from one file; allowed: null")
    needed = len(transformers_of(folder, spec.tasks))
    if len(spec.memory.gguf) != needed:
        raise wrong(spec, "memory.gguf", f"names {len(spec.memory.gguf)} files; allowed: {needed}, one per transformer")
    for name in spec.memory.gguf:
        try:
            with Path(name).expanduser().open("rb") as file:
                magic = file.read(4)
        except OSError as error:
            raise wrong(spec, "memory.gguf", f"{name}: {error.strerror}") from error
        if magic != b"GGUF":
            raise wrong(spec, "memory.gguf", f"{name}: is not a GGUF file; allowed: GGUF files")


def check_loras(spec: ModelSpec, folder: Path) -> None:
    if not spec.loras:
        return
    apart = [lora.name for lora in spec.loras if lora.expert != "both"]
    if apart and not has_two_experts(folder):
        raise wrong(
            spec, f"loras: {apart[0]}: expert", "the model has no second expert (boundary_ratio); allowed: both"
        )
    if all(source.startswith(lora_files.BUILTIN) for source in (spec.source, *(lora.source for lora in spec.loras))):
        lora_files.found(spec)  # they fit, as the bundled models' own tests show
        return
    from adaspa_worker.loras.slots import check_files  # noqa: PLC0415  diffusers: seconds, which others go without

    pipeline = pipeline_of(folder)
    check_files(spec, pipeline, FAMILIES[pipeline].transformer, transformer_of(folder))


def wrong(spec: ModelSpec, field: str, why: str) -> ModelUnavailable:
    """Say in one line what is wrong with a catalog entry."""
    return ModelUnavailable(f"catalog: model {spec.id}: {field}: {why}")
