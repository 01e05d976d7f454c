"""A model in several processes of one worker, each with a part of every video: the leader's side of it."""

import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from adaspa_api.words import Role, StepKind
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams

from adaspa_worker.engines.tiles import Leading, Place, dealt
from adaspa_worker.families import FAMILIES, pipeline_of
from adaspa_worker.group import Decode, Group, GroupFailed
from adaspa_worker.host_memory import given_back
from adaspa_worker.pipeline import Encoded, Given, StepCallback, engine_class
from adaspa_worker.sound import Sound
from adaspa_worker.source import ModelUnavailable

if TYPE_CHECKING:
    from adaspa_worker.engines.base import DiffusersEngine

log = logging.getLogger(__name__)

LOAD_SECONDS = 600.0
"""Seconds that the others may load longer than the leader."""


class Together:
    """Engine of a leader. It encodes and decodes alone, and denoises with the others.

    The others run the same denoising with the same seed, and wait after each step for the leader, who hears of cancels,
    writes checkpoints and makes previews. A snapshot holds the whole clip: it resumes in a group of any size.

    Args:
        spec: the catalog entry, with ``gpus`` above 1.
        folder: of the model.

    Raises:
        ModelUnavailable: the model does not load, the machine has too few GPUs or unequal ones, or the others are of
            other versions.
        GroupFailed: one of the others ended.
    """

    def __init__(self, spec: ModelSpec, folder: Path) -> None:
        check_gpus(spec)
        self.spec = spec
        self.group = Group(spec, folder)
        try:
            if apart := self.group.settle(LOAD_SECONDS):
                raise ModelUnavailable(
                    f"{spec.id}: gpus: the processes have different versions ({apart[0]}): restart it"
                )
            self.engine = join(spec, folder, 0, self.group.store)
            self.group.settle(LOAD_SECONDS)
        except Exception as error:
            failure = self.group.failure
            self.close()
            if failure is not None:
                raise failure from error
            raise

    def denoise(
        self, params: JobParams, encoded: Encoded, on_step: StepCallback, resume: dict[str, Any] | None = None
    ) -> torch.Tensor:
        """Implement ``Engine``.

        Raises:
            GroupFailed: one of the others died, hangs or failed alone.
        """
        self.group.tell((params, placed(encoded, torch.device("cpu")), resume))

        def after_step(done: int, kind: StepKind | None) -> None:
            try:
                on_step(done, kind)
            except BaseException:
                self.group.tell(False)
                raise
            self.group.tell(True)

        try:
            latents = self.engine.denoise(params, encoded, after_step, resume)
        except Exception as error:
            if (failure := self._failed_behind(error)) is not None:
                raise failure from error
            raise
        if errors := self.group.settle():
            raise GroupFailed(f"one process of the group failed: {errors[0]}")
        return latents

    def frames(self, latents: torch.Tensor, check: Callable[[], None]) -> Generator[np.ndarray]:
        """Implement ``Engine``: where the VAE decodes in tiles, each process decodes some of them."""
        if not self.spec.memory.vae_tiling:
            yield from self.engine.frames(latents, check)
            return
        self.group.tell(Decode(latents.cpu(), self.engine.decode_with()))
        came: dict[Place, torch.Tensor] = {}
        pieces = self.group.pieces(check)

        def receive(place: Place) -> torch.Tensor:
            while place not in came:
                piece = next(pieces)
                came[piece.place] = piece.content
            return came.pop(place)

        try:
            with dealt(self.engine.pipe.vae.decoder, Leading(self.spec.gpus, receive)):
                yield from self.engine.frames(latents, check)
        finally:
            self.group.tell(None)
            self.group.settle()

    def _failed_behind(self, error: Exception) -> GroupFailed | None:
        """Return what ended the others before the leader, whose error came of it; None if the leader's is its own."""
        own = isinstance(error, torch.OutOfMemoryError) or not isinstance(error, RuntimeError)
        try:
            self.group.settle()
        except GroupFailed as failure:  # the others, stuck without the leader or dead before it, are killed
            return None if own else failure
        return None

    def reset(self) -> None:
        """Implement ``Engine``. Raises GroupFailed if no group is left for another job."""
        self.engine.reset()
        if self.group.failure is not None:
            raise self.group.failure

    def close(self) -> None:
        """End the group."""
        self.group.close()
        if dist.is_initialized():
            dist.destroy_process_group()

    # What the leader does alone

    def checked(self, check: Callable[[], None]) -> AbstractContextManager[None]:
        return self.engine.checked(check)

    def encode_prompt(self, params: JobParams, images: Mapping[Role, Given]) -> Encoded:
        return self.engine.encode_prompt(params, images)

    def snapshot(self) -> dict[str, Any] | None:
        return self.engine.snapshot()

    def preview(self) -> np.ndarray | None:
        return self.engine.preview()

    def sound(self, params: JobParams) -> Sound | None:
        return self.engine.sound(params)

    def attention(self, params: JobParams) -> dict[str, Any]:
        return self.engine.attention(params)

    def report(self) -> dict[str, Any]:
        return self.engine.report()


@given_back()
def join(spec: ModelSpec, folder: Path, rank: int, store: Path) -> "DiffusersEngine":
    """Load the model as one process of its group: each calls it, and waits for the others."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=f"file://{store}", rank=rank, world_size=spec.gpus
    )
    engine: DiffusersEngine = engine_class(FAMILIES[pipeline_of(folder)].engine)(spec, folder)
    return engine


def placed(encoded: Encoded, device: torch.device) -> Encoded:
    """Copy the encoded texts to another device."""
    answers = (tuple(None if tensor is None else tensor.to(device) for tensor in answer) for answer in encoded.answers)
    return replace(encoded, answers=tuple(answers))


def check_gpus(spec: ModelSpec) -> None:
    """Raise ModelUnavailable unless the machine has as many equal GPUs; on a CPU any number of processes will do."""
    if not torch.cuda.is_available():
        return
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    if len(names) < spec.gpus:
        raise ModelUnavailable(
            f"{spec.id}: gpus: {spec.gpus} exceeds the GPUs of this machine; allowed: up to {len(names)}"
        )
    if len(kinds := set(names[: spec.gpus])) > 1:
        raise ModelUnavailable(
            f"{spec.id}: gpus: the first {spec.gpus} GPUs differ ({', '.join(sorted(kinds))}); allowed: one kind"
        )
