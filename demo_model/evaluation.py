"""Measure the demo model: does a video show what its caption says, with dense attention and with AdaSpa?

    python -m demo_model.evaluation --pipeline DIR --captions 64 --output eval.json --sheet eval.png

The captions are held out of training (`scenes.is_held_out`). Every mode generates the same captions from the same
noise; the videos are read back by image analysis (`reading`), the sparse ones compared with the dense ones too. An
image-to-video pipeline is also given each scene's first frame, which the video's own is compared with. Weights of one
ship if `first_frames.shortfalls` finds none; otherwise the command ends with status 1. So does that of a LoRA for few
steps, by `distill.shortfalls`; the file says with how many steps and which guidance it is to be run.
"""

import argparse
import datetime
import hashlib
import json
import platform
import random
import time
from pathlib import Path
from typing import Any

import adaspa
import diffusers
import torch
from adaspa import AdaSpaConfig
from adaspa_worker.comparison import psnr, ssim
from diffusers import DiffusionPipeline, WanPipeline
from torch import Tensor

from demo_model import distill
from demo_model.architecture import TEXT_LENGTHS
from demo_model.first_frames import FirstFramesPipeline, digest, first_frame, shortfalls
from demo_model.low_rank import header_of, load_low_ranks
from demo_model.reading import Reading, read_video
from demo_model.scenes import FRAMES, SIDE, Scene, brief_caption, caption, sample_scenes
from demo_model.sheet import save_sheet

DENSE = "dense"
MODES: dict[str, AdaSpaConfig | None] = {
    DENSE: None,
    "paper": AdaSpaConfig.paper(),
    "sparsity-0.8": AdaSpaConfig(sparsity=0.8),
    "sparsity-0.5": AdaSpaConfig(sparsity=0.5),
    "sparsity-0.9": AdaSpaConfig(sparsity=0.9),
    "uniform-heads": AdaSpaConfig(head_adaptive=False),
    "mass-0.9": AdaSpaConfig(selection="retained_mass", mass=0.9),
    "mass-0.95": AdaSpaConfig(selection="retained_mass", mass=0.95),
    "mass-0.99": AdaSpaConfig(selection="retained_mass", mass=0.99),
}
SETTINGS = ("captions", "brief", "seed", "steps", "guidance", "batch", "dtype")
ATTRIBUTES = ("color", "shape", "motion", "background")
# Of AdaSpa's report, the figures that are averaged over the captions, and those that are added up.
AVERAGED, ADDED = ("density", "recall"), ("dense_seconds", "search_seconds", "sparse_seconds")


def generate(
    pipe: DiffusionPipeline,
    texts: list[str],
    seeds: list[int],
    steps: int,
    guidance: float,
    *,
    images: Tensor | None = None,
) -> Tensor:
    """Videos of `texts`, each from the noise of its own seed: uint8 [len(texts), FRAMES, SIDE, SIDE, 3] on the CPU.

    `images` are what an image-to-video pipeline begins them with: float32 [len(texts), 3, SIDE, SIDE] in 0..1.
    """
    given = {} if images is None else {"image": images}
    frames = pipe(
        **given,
        prompt=texts,
        height=SIDE,
        width=SIDE,
        num_frames=FRAMES,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        max_sequence_length=TEXT_LENGTHS[0],
        output_type="pt",
    ).frames
    return (frames.float() * 255.0).round().clamp(0, 255).to(torch.uint8).permute(0, 1, 3, 4, 2).cpu()


def run_mode(
    pipe: DiffusionPipeline, mode: str, scenes: list[Scene], args: argparse.Namespace, images: Tensor | None
) -> tuple[Tensor, dict[str, Any]]:
    """Generate all scenes in one mode: the videos, and the seconds and AdaSpa's figures."""
    say = brief_caption if args.brief else caption
    config, texts = MODES[mode], [say(scene) for scene in scenes]

    def shown(start: int) -> Tensor | None:
        return None if images is None else images[start : start + args.batch]

    if config is not None:
        adaspa.apply(pipe.transformer, config)
    try:
        if args.device.startswith("cuda"):  # kernels are compiled and tuned for the batch at its first use
            some = texts[: args.batch]
            generate(pipe, some, [0] * len(some), args.steps, args.guidance, images=shown(0))
        videos, reports, seconds = [], [], 0.0
        for start in range(0, len(texts), args.batch):
            part = texts[start : start + args.batch]
            seeds = [args.seed + start + i for i in range(len(part))]
            begin = time.perf_counter()
            videos.append(generate(pipe, part, seeds, args.steps, args.guidance, images=shown(start)))
            seconds += time.perf_counter() - begin
            if config is not None:
                reports.append((len(part), pipe.transformer.adaspa.report()))
            print(f"{mode}: {start + len(part)}/{len(texts)} captions, {seconds:.1f} s", flush=True)
    finally:
        if config is not None:
            adaspa.remove(pipe.transformer)
    return torch.cat(videos), {"seconds": round(seconds, 3), **summarise_reports(reports)}


def summarise_reports(reports: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """AdaSpa's figures over the batches, each report with its number of captions; {} for a mode without AdaSpa."""
    if not reports:
        return {}
    total, first = sum(count for count, _ in reports), reports[0][1]
    figures: dict[str, Any] = {key: first[key] for key in ("dense_steps", "search_steps", "sparse_steps")}
    for key in AVERAGED:
        values = [(count, report[key]) for count, report in reports]
        known = all(value is not None for _, value in values)
        figures[key] = round(sum(count * value for count, value in values) / total, 5) if known else None
    for key in ADDED:
        figures[key] = round(sum(report[key] for _, report in reports), 3)
    return figures | {"cache_bytes": max(report["cache_bytes"] for _, report in reports)}


def share_right(marks: list[dict[str, list[bool]]]) -> dict[str, float | None]:
    """The share of right answers for each attribute, over all attributes, and of videos with all of them right."""
    answers = {name: [right for mark in marks for right in mark[name]] for name in ATTRIBUTES}
    answers["all_attributes"] = [right for values in answers.values() for right in values]
    answers["whole_videos"] = [all(right for values in mark.values() for right in values) for mark in marks]
    return {name: round(sum(values) / len(values), 4) if values else None for name, values in answers.items()}


def judge_mode(
    videos: Tensor, dense: Tensor | None, scenes: list[Scene], images: Tensor | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Figures of one mode, and one row per caption.

    Args:
        videos: of the mode, uint8 [len(scenes), frames, height, width, 3].
        dense: the videos to compare them with, if any.
        scenes: what was asked.
        images: what the videos were to begin with, if anything: uint8 [len(scenes), height, width, 3].
    """
    marks, rows = [], []
    for i, (video, scene) in enumerate(zip(videos, scenes, strict=True)):
        reading = read_video(video, scene)
        marks.append(reading.judge(scene))
        row: dict[str, Any] = {"caption": caption(scene), "right": marks[-1], "read": describe(reading)}
        if dense is not None:
            row |= {"psnr": psnr(video, dense[i]), "ssim": ssim(video, dense[i])}
        if images is not None:
            row["first_frame_psnr"] = psnr(video[:1], images[i : i + 1])
        rows.append(row)
    figures: dict[str, Any] = {"right": share_right(marks)}
    compared = [key for key in ("psnr", "ssim", "first_frame_psnr") if key in rows[0]]
    figures |= {key: round(sum(row[key] for row in rows) / len(rows), 4) for key in compared}
    return figures, rows


def describe(reading: Reading) -> str:
    """What was read, in words; `?` where nothing could be told."""
    actors = [
        f"{'asked colour' if actor.color else 'other colour'}, {actor.shape or '?'}, {actor.motion or '?'}"
        for actor in reading.actors
    ]
    return "; ".join([*actors, f"{reading.background} background"])


def evaluate(args: argparse.Namespace) -> None:
    """Run all modes; write the figures to `args.output` and the contact sheet to `args.sheet`.

    Raises:
        SystemExit: an image-to-video pipeline or a LoRA falls short of what it is to reach.
    """
    dtype = getattr(torch, args.dtype)
    with_images = json.loads((args.pipeline / "model_index.json").read_text())["_class_name"] != "WanPipeline"
    pipe = (FirstFramesPipeline if with_images else WanPipeline).from_pretrained(
        args.pipeline, dtype={"transformer": dtype, "default": torch.float32}, local_files_only=True
    )
    weights = digest(pipe.transformer)
    about = header_of(args.lora) if args.lora else {}
    if args.lora:
        args.steps, args.guidance = int(about["steps"]), float(about["guidance"])
    pipe.to(args.device)
    pipe.set_progress_bar_config(disable=True)
    scenes = sample_scenes(random.Random(f"evaluation {args.seed}"), args.captions, held_out=True)
    images = torch.stack([first_frame(scene) for scene in scenes]) if with_images else None
    given = None if images is None else images.permute(0, 3, 1, 2) / 255.0
    result: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else platform.processor() or "cpu",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
        },
        "weights": weights,
        **({"lora": hashlib.sha256(args.lora.read_bytes()).hexdigest(), "lora_header": about} if args.lora else {}),
        "settings": {key: getattr(args, key) for key in SETTINGS},
        "modes": {},
    }
    if args.lora:
        plain, _ = run_mode(pipe, DENSE, scenes, args, given)
        result["without_lora"] = judge_mode(plain, None, scenes)[0]["right"]
        load_low_ranks(args.lora, pipe.transformer)
    videos: dict[str, Tensor] = {}
    details: dict[str, Any] = {}
    for mode in dict.fromkeys([DENSE, *args.modes]):
        config = MODES[mode]
        videos[mode], figures = run_mode(pipe, mode, scenes, args, given)
        dense = videos[DENSE] if config is not None else None
        judged, details[mode] = judge_mode(videos[mode], dense, scenes, images)
        result["modes"][mode] = {"config": config.to_dict() if config else None, **figures, **judged}
        print(mode, json.dumps({**figures, **judged}), flush=True)
        # Every mode is written as soon as it is known: a later one may fail.
        args.output.write_text(json.dumps({**result, "captions": details}, indent=1) + "\n")
    shown = [DENSE, next((mode for mode in videos if mode != DENSE), DENSE)]
    save_sheet(args.sheet, [caption(scene) for scene in scenes], {mode: videos[mode] for mode in shown})
    print("wrote", args.output, "and", args.sheet, flush=True)
    short = shortfalls(result["modes"]) if with_images else []
    if args.lora:
        short = distill.shortfalls(result["modes"], args.steps)
    if short:
        raise SystemExit("falls short: " + "; ".join(short))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path, required=True, help="diffusers folder")
    parser.add_argument("--lora", type=Path, help="of `distill`: its header says --steps and --guidance")
    parser.add_argument("--captions", type=int, default=64)
    parser.add_argument("--brief", action="store_true", help="tell only what moves how: an image shows the rest")
    parser.add_argument("--seed", type=int, default=20260101, help="of the captions and of the first one's noise")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the transformer")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--modes", nargs="+", choices=list(MODES), default=[DENSE, "mass-0.9"], help="dense always runs"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, required=True, help="PNG of 8 captions")
    args = parser.parse_args()
    if args.captions < 1 or args.batch < 1 or args.steps < 1:
        parser.error("--captions, --batch and --steps must be at least 1")
    if args.lora and not args.lora.is_file():
        parser.error(f"--lora must be a LoRA file: there is none at {args.lora}")
    if not (args.pipeline / "model_index.json").is_file():
        parser.error(f"--pipeline must be a diffusers folder: {args.pipeline} has no model_index.json")
    evaluate(args)


if __name__ == "__main__":
    main()
