"""Distil the demo model to a few steps: a LoRA that takes the guided model's path in long steps, without guidance.

    python -m demo_model.distill --steps 8 --minutes 6 --work DIR

The teacher is the model that ships, with guidance. It goes along each of the student's steps in a few short ones of
second order; what that comes to, divided by the step's length, is the velocity that the student learns. At first the
student sees the teacher's states, later mostly those that it reaches itself, from which the teacher shows the way.
Captions are drawn as in training, so none is held out; no video is drawn or encoded. The noise levels are those of the
model's own scheduler, so that a request may take the LoRA or leave it.

The running average of the LoRA is saved to `DIR/distilled-{steps}.safetensors` every minute and at the end, the loss
curve to `DIR/training.json`. What ships is decided by `evaluation`.
"""

import argparse
import random
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from adaspa_demo_model import PIPELINE_FOLDER
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from torch import Tensor, nn

from demo_model.architecture import FLOW_SHIFT, LATENT_CHANNELS, TEXT_LENGTHS
from demo_model.latents import CAPTION_TOKENS, TWO_ACTORS
from demo_model.low_rank import add_low_ranks, fill_low_ranks, save_low_ranks
from demo_model.scenes import caption, sample_scenes
from demo_model.training import Clock, Log, embed_text

SHAPE = (LATENT_CHANNELS, 9, 16, 16)  # of a clip's latents
GUIDANCE = 4.0  # of the teacher: that of the demo
SHORT_STEPS = {8: 1, 4: 3}  # of the teacher, for one of the student's: by the student's number of steps
RANK = 10  # in all linear layers: 1.44 MB
PEAK = 1e-3  # learning rate
EMA_HALF_LIFE = 100.0  # optimizer steps
OWN_FROM, OWN_SHARE = 0.2, 0.75  # of the time, after which the student's own states are shown; share of clips with them
ACTOR_WEIGHT = 4.0  # of latents that show an actor, in the loss
ACTOR_DISTANCE = 0.7  # of a latent to its frame's median, which shows the background: beyond it an actor is shown
SAVE_SECONDS = 60.0


RIGHT = {8: 0.95, 4: 0.92}  # of all attributes, by steps: what ships reaches


def shortfalls(modes: dict[str, dict[str, Any]], steps: int) -> list[str]:
    """What the figures of an evaluation's modes lack of what they must reach."""
    reached = {mode: figures["right"]["all_attributes"] for mode, figures in modes.items()}
    return [f"{mode}: {at:.3g} of {RIGHT[steps]:g}" for mode, at in reached.items() if at < RIGHT[steps]]


def levels_of(scheduler: FlowMatchEulerDiscreteScheduler, steps: int) -> Tensor:
    """Noise levels of the ends of the student's steps, without the last step.

    That one takes away less than a hundredth of noise, whatever its velocity.
    """
    scheduler.set_timesteps(steps)
    levels: Tensor = scheduler.sigmas[:-1]
    return levels


def short_levels(start: float, end: float, count: int) -> list[float]:
    """`count` steps from one noise level to another: evenly spaced before the shift."""
    first, last = (level / (FLOW_SHIFT - (FLOW_SHIFT - 1.0) * level) for level in (start, end))
    even = [first + (last - first) * i / count for i in range(count + 1)]
    return [FLOW_SHIFT * u / (1.0 + (FLOW_SHIFT - 1.0) * u) for u in even]


class Captions:
    """Encoded captions, drawn as for training."""

    def __init__(self, pipe: WanPipeline, rng: random.Random, device: str):
        self.tokenizer, self.encoder, self.rng, self.device = pipe.tokenizer, pipe.text_encoder, rng, device
        self.empty = self._encode([""])

    def _encode(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts, padding="max_length", max_length=CAPTION_TOKENS, return_tensors="pt").input_ids
        return embed_text(self.encoder, tokens.to(self.device), TEXT_LENGTHS[0])

    def draw(self, count: int) -> Tensor:
        """fp32 [count, 64, width]."""
        return self._encode([caption(scene) for scene in sample_scenes(self.rng, count, two_actors=TWO_ACTORS)])


def velocity(transformer: nn.Module, latents: Tensor, level: Tensor, text: Tensor) -> Tensor:
    """fp32, in the shape of `latents`; `level` is that of each clip [B]."""
    with torch.autocast(latents.device.type, torch.bfloat16):
        found: Tensor = transformer(latents, level * 1000.0, text, return_dict=False)[0]
    return found.float()


class Teacher:
    """The frozen model with guidance."""

    def __init__(self, transformer: nn.Module, empty: Tensor, guidance: float):
        self.transformer, self.empty, self.guidance = transformer, empty, guidance

    def guided(self, latents: Tensor, level: float, text: Tensor) -> Tensor:
        both = torch.cat([text, self.empty.expand_as(text)])
        levels = torch.full((2 * len(latents),), level, device=latents.device)
        told, untold = velocity(self.transformer, torch.cat([latents, latents]), levels, both).chunk(2)
        return torch.lerp(untold, told, self.guidance)

    @torch.no_grad()
    def walk(self, latents: Tensor, levels: list[float], text: Tensor) -> Tensor:
        """Go from the first noise level to the last, in midpoint steps: fp32, in the shape of `latents`."""
        for start, end in pairwise(levels):
            half = short_levels(start, end, 2)[1]
            middle = latents + (half - start) * self.guided(latents, start, text)
            latents = latents + (end - start) * self.guided(middle, half, text)
        return latents


class PathPool:
    """States and the velocities to learn there, of all steps of many clips; the oldest are replaced."""

    def __init__(self, clips: int, levels: Tensor, short_steps: int, text: Tensor):
        device, steps = text.device, len(levels) - 1
        whole: Any = {"dtype": torch.float16, "device": device}
        self.states, self.velocities = (torch.zeros(clips, steps, *SHAPE, **whole) for _ in range(2))
        self.shown = torch.zeros(clips, 1, *SHAPE[1:], dtype=torch.bool, device=device)
        self.texts = torch.zeros(clips, *text.shape[1:], device=device)
        self.levels, self.short_steps = levels.to(device), short_steps
        self.oldest, self.filled = 0, 0

    @torch.no_grad()
    def refresh(self, teacher: Teacher, student: nn.Module, text: Tensor, own_share: float) -> None:
        """Add a clip for each text; `own_share` of them go on from the states that the student reaches."""
        count, clips = len(text), len(self.states)
        rows = torch.arange(self.oldest, self.oldest + count, device=text.device) % clips
        self.oldest, self.filled = (self.oldest + count) % clips, min(clips, self.filled + count)
        latents, ended = torch.randn(count, *SHAPE, device=text.device), torch.zeros(0)
        own = (torch.rand(count, device=text.device) < own_share).view(-1, 1, 1, 1, 1)
        levels = self.levels.tolist()
        for step, (start, end) in enumerate(pairwise(levels)):
            ended = teacher.walk(latents, short_levels(start, end, self.short_steps), text)
            self.states[rows, step] = latents.half()
            self.velocities[rows, step] = ((ended - latents) / (end - start)).half()
            if own_share:
                level = torch.full((count,), start, device=text.device)
                reached = latents + (end - start) * velocity(student, latents, level, text)
                ended = torch.where(own, reached, ended)
            latents = ended
        background = ended.flatten(3).median(-1).values[..., None, None]
        self.shown[rows] = (ended - background).abs().mean(1, keepdim=True) > ACTOR_DISTANCE
        self.texts[rows] = text

    def batch(self, size: int) -> tuple[Tensor, ...]:
        """States, noise levels, velocities, texts, and which latents show an actor, each of any step."""
        device = self.texts.device
        rows = torch.randint(self.filled, (size,), device=device)
        steps = torch.randint(self.states.shape[1], (size,), device=device)
        states, velocities = (part[rows, steps].float() for part in (self.states, self.velocities))
        return states, self.levels[steps], velocities, self.texts[rows], self.shown[rows]


class Student:
    """Low ranks over a transformer that go down the error, and their running average."""

    def __init__(self, transformer: nn.Module, start: Path | None):
        self.transformer, self.step = transformer.train(), 0
        self.named = add_low_ranks(transformer, RANK)
        if start is not None:
            fill_low_ranks(start, self.named)
        self.weights = list(self.named.values())
        self.average = [weight.detach().clone() for weight in self.weights]
        self.optimizer = torch.optim.AdamW(self.weights, betas=(0.9, 0.99), weight_decay=0.0)

    def descend(self, error: Tensor, shown: Tensor, rate: float) -> Tensor:
        """Take a step down the error, that of latents which show an actor weighed up; returns the gradient's norm."""
        self.optimizer.param_groups[0]["lr"] = rate
        weight = 1.0 + (ACTOR_WEIGHT - 1.0) * shown.float()
        (error * (weight / weight.mean())).mean().backward()
        norm = nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        keep = min(0.5 ** (1.0 / EMA_HALF_LIFE), (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(self.average, [weight.detach() for weight in self.weights], 1.0 - keep)
        self.step += 1
        return norm

    def save(self, work: Path, steps: int) -> None:
        """Write the averaged low ranks, with how they are to be run in the file's header."""
        about = {"steps": steps, "guidance": 1, "optimizer_steps": self.step}
        averaged = dict(zip(self.named, self.average, strict=True))
        header = {name: str(value) for name, value in about.items()}
        save_low_ranks(work / f"distilled-{steps}.safetensors", averaged, header)


def distill(args: argparse.Namespace) -> None:
    device, steps = args.device, args.steps
    torch.manual_seed(steps)
    pipe, other = (
        WanPipeline.from_pretrained(PIPELINE_FOLDER, dtype=torch.float32, local_files_only=True) for _ in range(2)
    )
    pipe.text_encoder.to(device).eval().requires_grad_(False)
    captions = Captions(pipe, random.Random(f"distill {steps} {args.minutes}"), device)
    teacher = Teacher(pipe.transformer.to(device).eval().requires_grad_(False), captions.empty, GUIDANCE)
    student = Student(other.transformer.to(device), args.start)
    if device == "cuda":
        for transformer in (teacher.transformer, student.transformer):
            transformer.compile_repeated_blocks(fullgraph=True, dynamic=False)  # type: ignore[operator]
    args.work.mkdir(parents=True, exist_ok=True)
    log = Log(args.work / "training.json", f"distilled-{steps}", args.log_every)
    clock = Clock(args.minutes, None, 0.0)
    pool = PathPool(args.clips, levels_of(pipe.scheduler, steps), SHORT_STEPS[steps], captions.empty)
    while pool.filled < min(args.clips, args.first):
        pool.refresh(teacher, student.transformer, captions.draw(args.batch), 0.0)
    print(f"{pool.filled} clips of the teacher's at {clock.spent:.0f} s", flush=True)
    saved_at = time.monotonic()
    while not clock.over:
        if student.step % args.refresh == args.refresh - 1:
            own = OWN_SHARE if clock.spent > OWN_FROM * clock.total else 0.0
            pool.refresh(teacher, student.transformer, captions.draw(args.batch), own)
        states, level, target, text, shown = pool.batch(args.batch)
        error = (velocity(student.transformer, states, level, text) - target) ** 2
        norm = student.descend(error, shown, clock.learning_rate(student.step, args.rate, warmup=50))
        losses = by_step(error.detach(), level, pool.levels)
        log.add(student.step - 1, clock, loss=error.mean(), **losses, shown=shown.float().mean(), grad_norm=norm)
        if time.monotonic() - saved_at >= SAVE_SECONDS:
            student.save(args.work, steps)
            log.save()
            saved_at = time.monotonic()
    student.save(args.work, steps)
    log.save()
    print(f"{student.step} optimizer steps in {clock.spent:.0f} s", flush=True)


def by_step(error: Tensor, level: Tensor, levels: Tensor) -> dict[str, Tensor]:
    """The mean error of the first of the student's steps, and of the last; 0 where a batch has none."""
    each = error.mean(dim=(1, 2, 3, 4))
    chosen = {"first": level == levels[0], "last": level == levels[-2]}
    return {name: (each * those).sum() / those.sum().clamp(min=1) for name, those in chosen.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, required=True, choices=list(SHORT_STEPS), help="of the student")
    parser.add_argument("--minutes", type=float, required=True, help="training time, the first clips included")
    parser.add_argument("--work", type=Path, required=True, help="folder of the LoRA and the loss curve")
    parser.add_argument("--start", type=Path, help="LoRA file of a run before, to go on from")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--clips", type=int, default=1024, help="whose paths are held in memory")
    parser.add_argument("--first", type=int, default=512, help="clips before the training begins")
    parser.add_argument("--refresh", type=int, default=12, help="optimizer steps between new clips")
    parser.add_argument("--rate", type=float, default=PEAK, help="peak learning rate")
    parser.add_argument("--log-every", type=int, default=50, help="optimizer steps of a row of the loss curve")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    distill(args)


if __name__ == "__main__":
    main()
