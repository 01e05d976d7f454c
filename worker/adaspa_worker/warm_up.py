"""A worker's first clip, which is nobody's: it compiles what jobs run, and shows that the model works.

It is a job of the model's defaults with as few steps as take each kind of attention once, by the same calls.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from adaspa_api.fields import Kept, rows
from adaspa_api.words import Kind, Role, StepKind
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams
from PIL import Image

from adaspa_worker.attention import attention_config
from adaspa_worker.compilations import Compilations, counted
from adaspa_worker.encode import encode
from adaspa_worker.families import limits_of
from adaspa_worker.sound import Sound
from adaspa_worker.tasks.clip import writer_of

if TYPE_CHECKING:
    from adaspa_worker.pipeline import Engine, Given

log = logging.getLogger(__name__)

GREY = (128, 128, 128)
SILENCE = Sound(np.zeros((1, 16_000), np.float32), 16_000)


def warm_up(engine: "Engine", spec: ModelSpec, folder: Path) -> Compilations:
    """Run a short clip of the model's defaults, and drop all that the engine holds of it; what it compiled.

    Args:
        engine: the loaded model.
        spec: its catalog entry.
        folder: of the model.
    """
    params = shortened(default_params(spec), spec, limits_of(folder).steps)

    def on_step(done: int, kind: StepKind | None) -> None:
        engine.preview()
        log.info("%s: warm-up: step %d of %d (%s)", spec.id, done, params.steps, kind or "dense")

    with counted() as compilations, TemporaryDirectory(prefix="adaspa-warm-up-") as scratch:
        try:
            encoded = engine.encode_prompt(params, pictures(spec, params))
            latents = engine.denoise(params, encoded, on_step)
            writer = writer_of(Path(scratch, f"video.{params.output_format}"), params, engine.attention(params))
            sound = engine.sound(params)
            encode(engine.frames(latents, lambda: None), writer, sound)
        finally:
            engine.reset()
    return compilations


def default_params(spec: ModelSpec) -> JobParams:
    """Return what a request asks for that names nothing but a prompt."""
    found: dict[str, object] = {}
    for name, row in rows(Kept).items():
        found[name] = row.limits.settle(None, spec, found)
    width, height = map(int, spec.sizes[0].split("x"))
    own = {"prompt": next(iter(spec.prompt_examples), "a warm-up"), "model": spec.id, "seed": 0}
    return JobParams.model_validate({**found, **own, "width": width, "height": height})


def shortened(params: JobParams, spec: ModelSpec, least: int) -> JobParams:
    """Return the parameters with the fewest steps that take each kind of attention which ``params`` take.

    Args:
        params: of a job.
        spec: the catalog entry.
        least: the fewest steps that the model does.
    """
    config = attention_config(spec.attention, params)
    if params.steps <= config.few_steps or {"sigmas", "timesteps"} & set(spec.call):
        return params
    wanted = kinds(params, spec)
    for steps in range(least, params.steps):
        warmup = None if wanted == {"dense"} else 1
        if warmup is not None and steps <= warmup:
            continue
        fewer = params.model_copy(update={"steps": steps, "warmup": warmup})
        if kinds(fewer, spec) == wanted:
            return fewer
    return params


def kinds(params: JobParams, spec: ModelSpec) -> set[str]:
    """Return the kinds of a job's steps."""
    schedule = attention_config(spec.attention, params).resolve(params.steps).schedule
    return {schedule.kind(step).value for step in range(params.steps)}


def pictures(spec: ModelSpec, params: JobParams) -> "Mapping[Role, Given]":
    """Grey images of the video's size, a video of such, silence: those that the model's first task takes."""
    grey = Image.new("RGB", (params.width, params.height), GREY)
    kinds: dict[Kind, Given] = {Kind.image: grey, Kind.video: [grey] * spec.start_frames, Kind.audio: SILENCE}
    return {role: kinds[role.kind] for role in spec.tasks[0].roles}
