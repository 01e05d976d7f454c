"""A clip: prompt, images or a video are encoded, it is denoised and decoded, and written with its pictures."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaspa_api.report import AttentionReport
from adaspa_jobs.job import JobParams

from adaspa_worker.blank import BlankClip, Look
from adaspa_worker.context import Context, Made
from adaspa_worker.encode import VideoWriter, encode
from adaspa_worker.mark import marked
from adaspa_worker.recipe import write_recipe
from adaspa_worker.sound import Sound
from adaspa_worker.tasks.given import READERS

if TYPE_CHECKING:
    import numpy as np
    import torch


def run(context: Context) -> Made:
    """Make a job's clip of its prompt and its inputs. Raises whatever ends the job or the attempt."""
    engine, params, course = context.engine, context.params, context.course
    given = {role: READERS[role.kind](path) for role, path in context.inputs.items()}
    with course.phase("encoding_prompt"), engine.checked(context.check):
        encoded = engine.encode_prompt(params, given)
    course.tokens = encoded.tokens
    with course.phase("denoising"):
        if snapshot := context.snapshot():
            course.resume(snapshot["step"])
        latents = engine.denoise(params, encoded, context.on_step, snapshot)
    with course.phase("decoding"):
        sound = engine.sound(params)
        files, warnings = write_files(context, latents, sound)
    report = AttentionReport.model_validate(engine.report())
    return Made(files, report, has_audio=sound is not None, warnings=warnings)


def write_files(context: Context, latents: "torch.Tensor", sound: Sound | None) -> tuple[dict[str, Path], list[str]]:
    """Decode and encode; returns the files by variant, and what is odd about the clip.

    Raises:
        BlankClip: it shows nothing, and such clips are to fail.
        ProvenanceError: its file is to be signed, and cannot be.
    """
    engine, params, folder = context.engine, context.params, context.folder
    files = {
        "video": folder / f"video.{params.output_format}",
        "thumbnail": folder / "thumbnail.webp",
        "spritesheet": folder / "spritesheet.webp",
    }
    writer = writer_of(files["video"], params, engine.attention(params))
    start = time.monotonic()
    with closing(engine.frames(latents, context.check)) as decoded:  # what fails here ends the decoding too
        frames = Decoding(decoded, context.check)
        encode(marked(frames, context.provenance.mark), writer, sound)
    context.course.record("encoding", time.monotonic() - start - frames.seconds)
    warnings = frames.look.warnings()
    if warnings and context.fail_blank:
        raise BlankClip("; ".join(warnings))
    writer.write_thumbnail(files["thumbnail"])
    writer.write_spritesheet(files["spritesheet"])
    return files, [*warnings, *context.provenance.sign(files["video"], params)]


def writer_of(path: Path, params: JobParams, attention: dict[str, Any]) -> VideoWriter:
    """Return the writer of a job's video, which carries the recipe.

    Args:
        path: of the file.
        params: what was asked.
        attention: the settings of the job's attention, in full.
    """
    return VideoWriter(
        path,
        params.output_format,
        width=params.width,
        height=params.height,
        fps=params.fps,
        num_frames=params.num_frames,
        comment=write_recipe(params, attention),
    )


class Decoding:
    """Iterates over frames, checks each, and adds up the seconds that they take to arrive.

    Before each frame, ``check`` may raise.
    """

    def __init__(self, frames: "Iterator[np.ndarray]", check: Callable[[], None]) -> None:
        self._frames, self._check, self.seconds, self.look = frames, check, 0.0, Look()

    def __iter__(self) -> "Iterator[np.ndarray]":
        return self

    def __next__(self) -> "np.ndarray":
        self._check()
        start = time.monotonic()
        try:
            frame = next(self._frames)
        finally:
            self.seconds += time.monotonic() - start
        self.look.at(frame)
        return frame
