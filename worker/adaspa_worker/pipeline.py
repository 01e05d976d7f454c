"""A loaded text-to-video pipeline with AdaSpa on its transformer: prompt in, frames out."""

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import diffusers
import numpy as np
import torch
import transformers
from adaspa_api.report import TokenCount
from adaspa_api.words import Role, StepKind
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams
from PIL.Image import Image

from adaspa_worker.families import FAMILIES, pipeline_of
from adaspa_worker.host_memory import given_back
from adaspa_worker.sound import Sound

StepCallback = Callable[[int, StepKind | None], None]
"""Called after each denoising step with the number of finished steps and the kind of the last one."""


Given = Image | list[Image] | Sound
"""An image or the frames of a video, of a clip's size; a reference image of its own size; or a sound."""


class NotFinite(Exception):
    """Failure because latents, frames or sound hold NaN or infinity: the clip would be black or noise."""


@dataclass(frozen=True)
class Encoded:
    """Encoded texts of one job, and its images or its video.

    Args:
        images: these, by what they are to the clip.
        answers: what each call of the pipeline's ``encode_prompt`` gave; of a modular pipeline, its state.
        tokens: of each text, by the field of ``Progress`` that tells it.
    """

    answers: tuple[Any, ...]
    tokens: dict[str, TokenCount]
    images: Mapping[Role, Given] = field(default_factory=dict)


class Engine(Protocol):
    """Interface to a model family for running jobs; one instance serves one job at a time."""

    def checked(self, check: Callable[[], None]) -> AbstractContextManager[None]:
        """Within the block ``check``, which may raise, is called before each layer of a text encoder."""

    def encode_prompt(self, params: JobParams, images: Mapping[Role, Given]) -> Encoded:
        """Encode the texts, and the images or the video with them, for ``denoise``."""

    def denoise(
        self,
        params: JobParams,
        encoded: Encoded,
        on_step: StepCallback,
        resume: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        """Latents of the clip, from step 0 or from a snapshot of the same job.

        An exception out of ``on_step`` ends the denoising and comes through.

        Raises:
            NotFinite: they are no numbers.
        """

    def snapshot(self) -> dict[str, Any] | None:
        """Return what ``denoise`` needs to go on after its last finished step, or None before the first one.

        That is ``step``, and the engine's own state. Call it in ``on_step``, or after the denoising until ``reset``.
        """

    def preview(self) -> np.ndarray | None:
        """Return a preview of the clip after the last step, or None if that is not possible.

        It is a few small frames, uint8 RGB [frames, height, width, 3].
        """

    def frames(self, latents: torch.Tensor, check: Callable[[], None]) -> Generator[np.ndarray]:
        """Yield the clip's frames, uint8 RGB [height, width, 3], while a thread decodes those to come.

        ``check`` is called now and then, from that thread, and may raise.

        Raises:
            NotFinite: some value in one of them is no number.
        """

    def sound(self, params: JobParams) -> Sound | None:
        """Return the clip's sound, after the denoising; None if its file gets none: ``ModelSpec.gives_sound``.

        Raises:
            NotFinite: some value in it is no number.
        """

    def attention(self, params: JobParams) -> dict[str, Any]:
        """Return the settings of a job's attention, in full."""

    def report(self) -> dict[str, Any]:
        """Report what AdaSpa did in the last denoising: the fields of the contract's AttentionReport.

        Its ``memory`` is complete after the decoding.
        """

    def reset(self) -> None:
        """Drop every cache of the request that ended."""


@given_back()
def load(spec: ModelSpec, folder: Path) -> Engine:
    """Load a model by its catalog entry.

    Raises:
        ModelUnavailable: the model does not load.
    """
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()  # it would fill the worker's log
        library.utils.logging.disable_default_handler()  # it writes lines of its own form between the log's
        library.utils.logging.enable_propagation()
    name = "together.Together" if spec.gpus > 1 else FAMILIES[pipeline_of(folder)].engine
    engine: Engine = engine_class(name)(spec, folder)
    return engine


def engine_class(name: str) -> Any:
    """A class of ``engines``, as ``module.Class``; what it needs is imported now."""
    module, _, kind = name.partition(".")
    return getattr(import_module(f"adaspa_worker.engines.{module}"), kind)
