"""Train the demo model from nothing on one GPU: the VAE, the text encoder, then the transformer.

    python -m demo_model.training vae --minutes 5 --work DIR
    python -m demo_model.training text --minutes 1 --work DIR
    python -m demo_model.training dit --minutes 30 --work DIR --stop-after 9

Lengths are in minutes of training; learning rates follow the share of `--minutes` that is spent. `vae` and `dit`
checkpoint to `DIR` and go on from the checkpoint they find there, so a run may be cut into pieces by `--stop-after`.
Each piece ends with a diffusers folder in `DIR/pipeline` and its loss curve in `DIR/training.json`.
"""

import argparse
import json
import math
import random
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline, WanTransformer3DModel
from torch import Tensor, nn
from torch.nn import functional as F

from demo_model.architecture import FLOW_SHIFT, TEXT_LENGTHS, build_pipeline, build_text_encoder
from demo_model.binding import PhraseReader, binding_loss, draw_captions, share_bound, text_groups
from demo_model.latents import LatentPool, measure
from demo_model.muon import StackedMuon
from demo_model.scenes import draw, find_actors, sample_scenes
from demo_model.whole_clip import allow_whole_clips, decode_clip, encode_clip

KL_WEIGHT, EDGE_WEIGHT = 2e-4, 2.0
ACTOR_WEIGHT = 7.0  # how much more than the background an actor's pixels count in the VAE's loss
ACTOR_LATENT_WEIGHT = 4.0  # the same in the transformer's loss, for the latents that show an actor
OPENING_SHARE, OPENING_FRAMES = 0.25, 3  # of the time, the transformer sees only the first latent frames
EMA_HALF_LIFE = 700.0  # optimizer steps
SAVE_SECONDS = 60.0  # between two savings of the average, where a run is short
SHARD = "12MB"  # of the weights saved so: files of a size that travels


class Clock:
    """Seconds of training spent so far over all pieces of a run, and what the learning rate makes of them."""

    def __init__(self, minutes: float, stop_after: float | None, spent: float):
        self.total, self.spent_before, self.begin = minutes * 60.0, spent, time.monotonic()
        self.end_of_piece = self.begin + (stop_after * 60.0 if stop_after else math.inf)

    @property
    def spent(self) -> float:
        return self.spent_before + time.monotonic() - self.begin

    @property
    def over(self) -> bool:
        return self.spent >= self.total or time.monotonic() >= self.end_of_piece

    def learning_rate(self, step: int, peak: float, warmup: int = 200) -> float:
        """Linear warm-up, a plateau, and a linear fall over the last 40 % of the time."""
        left = max(0.0, 1.0 - self.spent / self.total)
        return peak * min(1.0, (step + 1) / warmup) * min(1.0, left / 0.4 + 0.01)


class Log:
    """The loss curve: one line on the terminal and one row in the file for every hundred steps, or `every`."""

    def __init__(self, path: Path, name: str, every: int = 100):
        self.path, self.name, self.every = path, name, every
        self.rows: dict[str, list[dict[str, float]]] = json.loads(path.read_text()) if path.exists() else {}
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, step: int, clock: Clock, **values: Tensor) -> None:
        self.count += 1
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, torch.zeros_like(value)) + value.detach()
        if self.count == self.every:
            row = {"step": float(step + 1), "seconds": round(clock.spent, 1)}
            row |= {key: round(float(total) / self.count, 6) for key, total in self.sums.items()}
            self.rows.setdefault(self.name, []).append(row)
            self.sums, self.count = {}, 0
            print(self.name, *(f"{key}={value:g}" for key, value in row.items()), flush=True)

    def save(self) -> None:
        self.path.write_text(json.dumps(self.rows, indent=1) + "\n")


def train_vae(work: Path, minutes: float, stop_after: float | None, batch: int, device: str) -> None:
    """Reconstruction with a slight KL term; ends by measuring the latents' mean and deviation per channel."""
    pipe, state = load_work(work, "vae")
    vae = pipe.vae.to(device).train()
    allow_whole_clips(vae)
    for conv in (module for module in vae.modules() if isinstance(module, nn.Conv3d)):
        # The layout that cuDNN's 3-D kernels are fast in.
        conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    if state:
        optimizer.load_state_dict(state["optimizer"])

    @torch.compile(disable=device != "cuda")
    def reconstruct(video: Tensor) -> dict[str, Tensor]:
        with torch.autocast(device, torch.bfloat16):
            mean, log_variance = (t.float() for t in encode_clip(vae, video))
            decoded = decode_clip(vae, mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)).float()
        kl = 0.5 * (mean**2 + log_variance.exp() - 1.0 - log_variance).mean()
        error = (decoded - video).abs()
        # The actors are a small share of the pixels: weigh them up, or they blur away.
        loss = ((1.0 + ACTOR_WEIGHT * find_actors(video)) * (error + 2.0 * error**2)).mean()
        for axis in (-1, -2):  # outlines, too: a corner that is rounded off changes few pixels
            loss = loss + EDGE_WEIGHT * (decoded.diff(dim=axis) - video.diff(dim=axis)).abs().mean()
        psnr = -10.0 * torch.log10(((decoded.clamp(-1.0, 1.0) - video) ** 2).mean() / 4.0)
        return {"loss": loss + KL_WEIGHT * kl, "l1": error.mean(), "kl": kl, "psnr": psnr}

    step, clock = state.get("step", 0), Clock(minutes, stop_after, state.get("spent", 0.0))
    log, rng = Log(work / "training.json", "vae"), random.Random(f"vae {step} {minutes}")
    while not clock.over:
        optimizer.param_groups[0]["lr"] = clock.learning_rate(step, 1.2e-3, warmup=100)
        values = reconstruct(draw(sample_scenes(rng, batch), device=device))
        values["loss"].backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        log.add(step, clock, **values)
        step += 1
    torch.save({"optimizer": optimizer.state_dict(), "step": step, "spent": clock.spent}, work / "vae.pt")
    measure(pipe, rng, device)
    save_work(pipe, work, log)


def train_text(work: Path, minutes: float, batch: int, device: str) -> None:
    """A new text encoder learns which words belong together (`binding`)."""
    pipe, _ = load_work(work, "text")
    # One that has learned to draw without knowing that does not come to know it any more.
    pipe.text_encoder = build_text_encoder(pipe.tokenizer)
    encoder = pipe.text_encoder.to(device).train()
    reader = PhraseReader(encoder.config.d_model).to(device)
    optimizer = torch.optim.AdamW(text_groups(encoder, list(reader.parameters()), 2e-3), weight_decay=0.0)
    peaks = [group["lr"] for group in optimizer.param_groups]
    step, clock, rng = 0, Clock(minutes, None, 0.0), random.Random(f"text {minutes}")
    log = Log(work / "training.json", "text")
    while not clock.over:
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = clock.learning_rate(step, peak, warmup=30)
        tokens, answers = draw_captions(pipe.tokenizer, rng, batch)
        tokens, answers = tokens.to(device), {name: values.to(device) for name, values in answers.items()}
        loss = binding_loss(encoder, reader, tokens, answers)
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        log.add(step, clock, loss=loss)
        step += 1
    print("words that tell their phrase:", share_bound(encoder, reader, tokens, answers), flush=True)
    save_work(pipe, work, log)


@torch.no_grad()
def embed_text(text_encoder: nn.Module, tokens: Tensor, length: int) -> Tensor:
    """What `WanPipeline` makes of a prompt: hidden states, zero after its end, padded to `length` tokens."""
    mask = tokens.ne(0)
    hidden = text_encoder(tokens, mask.long()).last_hidden_state
    return F.pad(hidden * mask[..., None], (0, 0, 0, length - tokens.shape[1]))


def train_dit(work: Path, minutes: float, stop_after: float | None, batch: int, device: str, *, clips: int) -> None:
    """Rectified flow: the transformer learns noise - latents at a shifted logit-normal noise level."""
    pipe, state = load_work(work, "dit")
    pipe.vae.to(device).eval().requires_grad_(False)
    allow_whole_clips(pipe.vae)
    # What the text encoder has learned in its own stage it would lose to the first gradients from here.
    pipe.text_encoder.to(device).eval().requires_grad_(False)
    learner = Learner(pipe.transformer.to(device), state, EMA_HALF_LIFE)
    clock = Clock(minutes, stop_after, state.get("spent", 0.0))
    log, rng = Log(work / "training.json", "dit"), random.Random(f"dit {learner.step} {minutes}")
    torch.manual_seed(learner.step)
    pool = LatentPool(pipe, rng, device, clips)
    while not clock.over:
        learner.set_rates(clock)
        if learner.step % 8 == 7:
            pool.refresh(64)
        latents, shown, tokens = pool.batch(batch)
        # A clip's beginning shows what moves where, and costs a third of the clip.
        opening = clock.spent < OPENING_SHARE * clock.total
        if opening:
            latents, shown = latents[:, :, :OPENING_FRAMES], shown[:, :, :OPENING_FRAMES]
        # Both paddings are trained; the shorter is the cheaper.
        length = TEXT_LENGTHS[1 if learner.step % 6 == 5 and not opening else 0]
        with torch.autocast(device, torch.bfloat16):
            text = embed_text(pipe.text_encoder, tokens, length)
            error = velocity_error(learner.transformer, latents, text)
        norm = learner.descend(error, shown)
        log.add(learner.step, clock, loss=error.mean(), grad_norm=norm)
        learner.step += 1
    torch.save(learner.state() | {"spent": clock.spent}, work / "dit.pt")
    with torch.no_grad():
        torch._foreach_copy_(list[Tensor](learner.weights), learner.ema)
    save_work(pipe, work, log)


class Learner:
    """A transformer that goes down the error, and the running average of its weights.

    Args:
        transformer: on its device.
        state: of an earlier piece of the run, which this one goes on from; {} at the beginning.
        half_life: of the average, in steps.
    """

    def __init__(self, transformer: nn.Module, state: dict[str, Any], half_life: float):
        self.transformer, self.half_life, self.step = transformer.train(), half_life, state.get("step", 0)
        self.weights = [p for p in transformer.parameters() if p.requires_grad]
        self.optimizers = build_optimizers(transformer)
        self.ema = [p.detach().clone() for p in self.weights]
        if state:
            transformer.load_state_dict(state["transformer"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.ema = [e.to(self.weights[0].device) for e in state["ema"]]
        if self.weights[0].is_cuda:
            # A graph for each of the few shapes there are is faster than one for any shape.
            transformer.compile_repeated_blocks(fullgraph=True, dynamic=False)  # type: ignore[operator]

    def set_rates(self, clock: Clock, share: float = 1.0) -> None:
        """Set the learning rates of the coming step: a share of each group's peak rate."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = clock.learning_rate(self.step, share * group["peak"])

    def descend(self, error: Tensor, shown: Tensor) -> Tensor:
        """Take a step down the error, that of latents which show an actor weighed up; returns the gradient's norm."""
        weight = 1.0 + (ACTOR_LATENT_WEIGHT - 1.0) * shown.float()
        (error * (weight / weight.mean())).mean().backward()
        norm = nn.utils.clip_grad_norm_(self.weights, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        keep = min(0.5 ** (1.0 / self.half_life), (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(self.ema, list[Tensor](self.weights), 1.0 - keep)
        return norm

    def state(self) -> dict[str, Any]:
        """What a later piece of the run goes on from."""
        return {
            "transformer": self.transformer.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "ema": self.ema,
            "step": self.step,
        }


def velocity_error(
    transformer: nn.Module,
    latents: Tensor,
    text: Tensor,
    condition: Tensor | None = None,
    *,
    shift: float | Tensor = FLOW_SHIFT,
) -> Tensor:
    """The squared error of the velocity at a shifted logit-normal noise level, in the shape of `latents`.

    Args:
        transformer: takes noisy latents and, behind them, the channels of `condition`.
        latents: normalised, [B, C, F, H, W].
        text: encoded, [B, tokens, width].
        condition: [B, channels, F, H, W].
        shift: of the noise levels, of all clips or of each [B].
    """
    level = torch.sigmoid(torch.randn(len(latents), device=latents.device))
    level = shift * level / (1.0 + (shift - 1.0) * level)
    noise = torch.randn_like(latents, dtype=torch.float32)
    mixed = torch.lerp(latents.float(), noise, level.view(-1, 1, 1, 1, 1))
    if condition is not None:
        mixed = torch.cat([mixed, condition.float()], dim=1)
    velocity = transformer(mixed, level * 1000.0, text, return_dict=False)[0]
    return (velocity.float() - (noise - latents.float())) ** 2


def build_optimizers(transformer: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the transformer blocks, AdamW for the rest; each group carries its peak rate."""
    matrices = [p for name, p in transformer.named_parameters() if name.startswith("blocks.") and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in transformer.parameters() if p.requires_grad and id(p) not in chosen]
    muon = StackedMuon(matrices, lr=2e-3)
    adam = torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0)
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [muon, adam]


def load_work(work: Path, stage: str) -> tuple[WanPipeline, dict[str, Any]]:
    """The pipeline in the working folder (a new one where there is none) and the stage's checkpoint, or {}."""
    folder = work / "pipeline"
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    pipe = WanPipeline.from_pretrained(folder, torch_dtype=torch.float32) if folder.exists() else build_pipeline()
    return pipe, load_state(work, stage)


def load_state(work: Path, stage: str) -> dict[str, Any]:
    """The checkpoint of a stage in the working folder, or {}."""
    checkpoint = work / f"{stage}.pt"
    return torch.load(checkpoint, map_location="cpu", weights_only=True) if checkpoint.exists() else {}


def save_work(pipe: WanPipeline, work: Path, log: Log) -> None:
    """Write the pipeline folder in half precision, as it ships, and the loss curve."""
    modules = (pipe.vae, pipe.text_encoder, pipe.transformer)
    for module in modules:
        module.half()
    pipe.save_pretrained(work / "pipeline", safe_serialization=True)
    remove_paths(work / "pipeline")
    log.save()
    print("saved", work / "pipeline", flush=True)


def save_average(learner: Learner, work: Path, log: Log) -> None:
    """Put the averaged weights into the pipeline's folder, in half precision, as they ship; and the loss curve."""
    average = WanTransformer3DModel.from_config(learner.transformer.config)
    with torch.no_grad():
        torch._foreach_copy_(list[Tensor](average.parameters()), [e.cpu() for e in learner.ema])
    folder, part = work / "pipeline" / "transformer", work / "transformer.part"
    average.half().save_pretrained(part, safe_serialization=True, max_shard_size=SHARD)
    shutil.rmtree(folder)
    part.rename(folder)
    remove_paths(work / "pipeline")
    log.save()
    print("saved", folder, flush=True)


def remove_paths(pipeline: Path) -> None:
    """Take out of the configurations which folder each part was loaded from: nobody else has it."""
    for file in pipeline.rglob("*.json"):
        config = json.loads(file.read_text())
        if config.pop("_name_or_path", None):
            file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["vae", "text", "dit"])
    parser.add_argument("--minutes", type=float, required=True, help="training time of the whole run")
    parser.add_argument("--stop-after", type=float, help="minutes after which this piece ends")
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints and results")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--clips", type=int, default=4096, help="encoded clips held in memory (dit)")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    if args.stage == "vae":
        train_vae(args.work, args.minutes, args.stop_after, args.batch, args.device)
    elif args.stage == "text":
        train_text(args.work, args.minutes, args.batch, args.device)
    else:
        train_dit(args.work, args.minutes, args.stop_after, args.batch, args.device, clips=args.clips)


if __name__ == "__main__":
    main()
