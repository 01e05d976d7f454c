"""Training that goes on from the weights that ship: the pipeline of a run, and what is saved of it meanwhile."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from adaspa_demo_model import PIPELINE_FOLDER
from diffusers import DiffusionPipeline, WanPipeline

from demo_model.training import SAVE_SECONDS, Clock, Learner, Log, load_state, remove_paths, save_average
from demo_model.whole_clip import allow_whole_clips

Pipeline = TypeVar("Pipeline", bound=DiffusionPipeline)


def load_further(
    work: Path, stage: str, device: str, kind: type[Pipeline], begin: Callable[[WanPipeline], DiffusionPipeline]
) -> tuple[Pipeline, dict[str, Any]]:
    """Load the pipeline in the working folder, all but its transformer frozen, and the stage's checkpoint, or {}.

    Args:
        kind: class of the pipeline.
        begin: makes the pipeline that a run begins with from the one that ships.
    """
    folder = work / "pipeline"
    if not folder.exists():
        shipped = WanPipeline.from_pretrained(PIPELINE_FOLDER, dtype=torch.float16, local_files_only=True)
        begin(shipped).save_pretrained(folder, safe_serialization=True)
        remove_paths(folder)
    pipe = kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    for part in (pipe.vae, pipe.text_encoder):
        part.to(device).eval().requires_grad_(False)
    allow_whole_clips(pipe.vae)
    pipe.transformer.to(device)
    return pipe, load_state(work, stage)


class Savings:
    """Saves the averaged weights of a run every minute and at its end, and then its checkpoint."""

    def __init__(self, learner: Learner, work: Path, stage: str, log: Log) -> None:
        self.learner, self.work, self.stage, self.log = learner, work, stage, log
        self.saved_at = time.monotonic()

    def save_if_due(self) -> None:
        if time.monotonic() - self.saved_at >= SAVE_SECONDS:
            save_average(self.learner, self.work, self.log)
            self.saved_at = time.monotonic()

    def end(self, clock: Clock) -> None:
        save_average(self.learner, self.work, self.log)
        torch.save(self.learner.state() | {"spent": clock.spent}, self.work / f"{self.stage}.pt")
