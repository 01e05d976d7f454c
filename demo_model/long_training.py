"""Train the demo model on to clips of up to 21,504 tokens: larger, with more frames, of the same scenes.

    python -m demo_model.long_training --minutes 8.5 --work DIR

A run starts from the weights that ship. At first the transformer sees a few latent frames of a clip, at their places in
it: what is new is the canvas, and few frames show it at a fraction of the cost. Then come clips of 9,216 tokens, and at
last mostly whole ones, with shorter ones among them, so that one set of weights draws every length. The other parts
stay as they are.

A run goes on from the checkpoint in `DIR`. The running average of the weights is saved to `DIR/pipeline` every minute
and at the end, the loss curve to `DIR/training.json`. What ships is decided by `lengths`.
"""

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import WanPipeline
from torch import Tensor

from demo_model.architecture import FLOW_SHIFT, TEXT_LENGTHS
from demo_model.further_training import Savings, load_further
from demo_model.latents import LatentPool
from demo_model.long_clips import LONG, MIDDLE, SHORT, Length, place_tokens
from demo_model.training import Clock, Learner, Log, embed_text, velocity_error

PEAK = 0.5  # of the learning rates that the transformer was trained with from nothing
EMA_HALF_LIFE = 40.0  # optimizer steps: the run is short
NEW_CLIPS, NEW_SHARE = 32, 0.1  # clips that are replaced at once, and the share of the time that this takes


@dataclass(frozen=True)
class Batch:
    """`clips` clips of a length, of which the transformer sees `latent_frames`, or all."""

    length: Length
    clips: int
    latent_frames: int | None = None


FEW = Batch(LONG, 64, 3)
SOME = Batch(LONG, 24, 9)
WHOLE = Batch(LONG, 8)
LARGE = Batch(MIDDLE, 24)
SMALL = Batch(SHORT, 64)
STAGES = (
    (0.2, (FEW, FEW, FEW, SMALL)),
    (0.4, (LARGE, SOME, LARGE, SMALL)),
    (1.0, (WHOLE, WHOLE, WHOLE, LARGE, WHOLE, WHOLE, WHOLE, SMALL)),
)
"""The batches of a stage take turns, up to this share of the time."""


def batches(clock: Clock) -> Iterator[Batch]:
    """The batches of the run, until its time or that of this piece is over."""
    turn = 0
    while not clock.over:
        share = clock.spent / clock.total
        turns = next(turns for end, turns in STAGES if share < end)
        yield turns[turn % len(turns)]
        turn += 1


class Pools:
    """Encoded clips of each length; the oldest are replaced for no more than `NEW_SHARE` of the time."""

    def __init__(self, pipe: WanPipeline, rng: random.Random, device: str, clips: int):
        self.pipe, self.rng, self.device, self.clips = pipe, rng, device, clips
        self.pools: dict[Length, LatentPool] = {}
        self.renewing = 0.0  # seconds

    def of(self, length: Length, clock: Clock) -> LatentPool:
        if length not in self.pools:
            sizes = {"frames": length.frames, "side": length.side}
            self.pools[length] = LatentPool(self.pipe, self.rng, self.device, self.clips, **sizes)
        elif self.renewing < NEW_SHARE * clock.spent:
            self._wait()
            begun = clock.spent
            self.pools[length].refresh(min(NEW_CLIPS, self.clips))
            self._wait()
            self.renewing += clock.spent - begun
        return self.pools[length]

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def draw_shifts(length: Length, clips: int, device: str) -> Tensor:
    """Shifts of the noise levels [clips]: from the small clip's, which show detail, to those of the length itself."""
    return FLOW_SHIFT * (length.shift / FLOW_SHIFT) ** torch.rand(clips, device=device)


def train(work: Path, minutes: float, stop_after: float | None, device: str, clips: int) -> None:
    """Rectified flow, as the transformer was trained."""
    pipe, state = load_further(work, "long", device, WanPipeline, lambda shipped: shipped)
    if device == "cuda":
        pipe.transformer.set_attention_backend("_native_cudnn")
    learner = Learner(pipe.transformer, state, EMA_HALF_LIFE)
    clock = Clock(minutes, stop_after, state.get("spent", 0.0))
    log, rng = Log(work / "training.json", "long", every=40), random.Random(f"long {learner.step} {minutes}")
    torch.manual_seed(learner.step)
    pools = Pools(pipe, rng, device, clips)
    savings = Savings(learner, work, "long", log)
    for batch in batches(clock):
        length = batch.length
        learner.set_rates(clock, PEAK)
        latents, shown, tokens = pools.of(length, clock).batch(batch.clips)
        seen = sorted(rng.sample(range(length.grid[0]), batch.latent_frames or length.grid[0]))
        latents, shown = latents[:, :, seen], shown[:, :, seen]
        place_tokens(learner.transformer, length, seen)
        with torch.autocast(device, torch.bfloat16):
            text = embed_text(pipe.text_encoder, tokens, TEXT_LENGTHS[0])
            error = velocity_error(learner.transformer, latents, text, shift=draw_shifts(length, batch.clips, device))
        norm = learner.descend(error, shown)
        seen_tokens = torch.tensor(float(latents[0, 0].numel()))
        log.add(learner.step, clock, tokens=seen_tokens, loss=error.mean(), grad_norm=norm)
        learner.step += 1
        savings.save_if_due()
    savings.end(clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True, help="training time of the whole run")
    parser.add_argument("--stop-after", type=float, help="minutes after which this piece ends")
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints and results")
    parser.add_argument("--clips", type=int, default=512, help="encoded clips of each length held in memory")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    train(args.work, args.minutes, args.stop_after, args.device, args.clips)


if __name__ == "__main__":
    main()
