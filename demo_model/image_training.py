"""Teach the demo model to begin with an image: the transformer goes on from its text-to-video weights.

    python -m demo_model.image_training --minutes 12 --work DIR --stop-after 6

The scenes and captions are those of `training`. What is given of the first frame lies behind the noisy latents in
further channels, as in Wan's image-to-video models, whose weights are zero at first. The other parts stay as they are.

A run goes on from the checkpoint in `DIR`, else from the pipeline there, else from the one that ships. The running
average of the weights is saved to `DIR/pipeline` every minute and at the end, the loss curve to `DIR/training.json`.
"""

import argparse
import random
from pathlib import Path

import torch
from diffusers import WanImageToVideoPipeline

from demo_model.architecture import TEXT_LENGTHS, build_image_pipeline
from demo_model.further_training import Savings, load_further
from demo_model.latents import FirstFramePool
from demo_model.training import Clock, Learner, Log, embed_text, velocity_error

PEAK = 0.7  # of the learning rates that the transformer was trained with from nothing
EMA_HALF_LIFE = 250.0  # optimizer steps: the run is short


def train(work: Path, minutes: float, stop_after: float | None, batch: int, device: str, *, clips: int) -> None:
    """Rectified flow, as the transformer was trained, with the first frame given."""
    pipe, state = load_further(work, "image", device, WanImageToVideoPipeline, build_image_pipeline)
    learner = Learner(pipe.transformer, state, EMA_HALF_LIFE)
    clock = Clock(minutes, stop_after, state.get("spent", 0.0))
    log, rng = Log(work / "training.json", "image"), random.Random(f"image {learner.step} {minutes}")
    torch.manual_seed(learner.step)
    pool = FirstFramePool(pipe, rng, device, clips)
    savings = Savings(learner, work, "image", log)
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
        savings.save_if_due()
    savings.end(clock)


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
