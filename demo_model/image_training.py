"""Teach the demo model to begin with an image: the transformer goes on from its text-to-video weights.

    python -m demo_model.image_training --minutes 12 --work DIR --stop-after 6

The scenes and captions are those of `training`. What is given of the first frame lies behind the noisy latents in
further channels, as in Wan's image-to-video models, whose weights are zero at first. The other parts stay as they are.

A run goes on from the checkpoint in `DIR`, else from the pipeline there, else from the one that ships. The running
average of the weights is saved to `DIR/pipeline` every minute and at the end, the loss curve to `DIR/training.json`.
"""

import argparse
import random
import time
from pathlib import Path
from typing import Any

import torch
from adaspa_demo_model import PIPELINE_FOLDER
from diffusers import WanImageToVideoPipeline, WanPipeline

from demo_model.architecture import TEXT_LENGTHS, build_image_pipeline
from demo_model.latents import FirstFramePool
from demo_model.training import (
    SAVE_SECONDS,
    Clock,
    Learner,
    Log,
    embed_text,
    remove_paths,
    save_average,
    velocity_error,
)
from demo_model.whole_clip import allow_whole_clips

PEAK = 0.7  # of the learning rates that the transformer was trained with from nothing
EMA_HALF_LIFE = 250.0  # optimizer steps: the run is short


def train(work: Path, minutes: float, stop_after: float | None, batch: int, device: str, *, clips: int) -> None:
    """Rectified flow, as the transformer was trained, with the first frame given."""
    pipe, state = load_work(work)
    for part in (pipe.vae, pipe.text_encoder):
        part.to(device).eval().requires_grad_(False)
    allow_whole_clips(pipe.vae)
    learner = Learner(pipe.transformer.to(device), state, EMA_HALF_LIFE)
    clock = Clock(minutes, stop_after, state.get("spent", 0.0))
    log, rng = Log(work / "training.json", "image"), random.Random(f"image {learner.step} {minutes}")
    torch.manual_seed(learner.step)
    pool = FirstFramePool(pipe, rng, device, clips)
    saved_at = time.monotonic()
    while not clock.over:
        learner.set_rates(clock, PEAK)
        if learner.step % 8 == 7:
            pool.refresh(min(64, clips))
        latents, shown, tokens, condition = pool.batch(batch)
        with torch.autocast(device, torch.bfloat16):
            text = embed_text(pipe.text_encoder, tokens, TEXT_LENGTHS[1 if learner.step % 6 == 5 else 0])
            error = velocity_error(learner.transformer, latents, text, condition)
        norm = learner.descend(error, shown)
        log.add(learner.step, clock, loss=error.mean(), first_frame=error[:, :, 0].mean(), grad_norm=norm)
        learner.step += 1
        if time.monotonic() - saved_at >= SAVE_SECONDS:
            save_average(learner, work, log)
            saved_at = time.monotonic()
    save_average(learner, work, log)
    torch.save(learner.state() | {"spent": clock.spent}, work / "image.pt")


def load_work(work: Path) -> tuple[WanImageToVideoPipeline, dict[str, Any]]:
    """The pipeline in the working folder, put there where there is none, and the checkpoint, or {}."""
    folder, checkpoint = work / "pipeline", work / "image.pt"
    if not folder.exists():
        narrow = WanPipeline.from_pretrained(PIPELINE_FOLDER, dtype=torch.float16, local_files_only=True)
        build_image_pipeline(narrow).save_pretrained(folder, safe_serialization=True)
        remove_paths(folder)
    pipe = WanImageToVideoPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    state = torch.load(checkpoint, map_location="cpu", weights_only=True) if checkpoint.exists() else {}
    return pipe, state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True, help="training time of the whole run")
    parser.add_argument("--stop-after", type=float, help="minutes after which this piece ends")
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints and results")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--clips", type=int, default=4096, help="encoded clips held in memory")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    train(args.work, args.minutes, args.stop_after, args.batch, args.device, clips=args.clips)


if __name__ == "__main__":
    main()
