"""The demo model and the captions that it makes videos of, by the command line's settings."""

import argparse
import random
from pathlib import Path
from typing import Any

import diffusers
import torch
from adaspa_demo_model import PIPELINE_FOLDER
from diffusers import WanPipeline
from torch import Tensor

from demo_model.evaluation import generate
from demo_model.field.grid import Row, warmup
from demo_model.field.meter import Meter, metered
from demo_model.scenes import caption, sample_scenes


def add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, required=True, help="the JSON file, where the figures go")
    parser.add_argument("--captions", type=int, default=64)
    parser.add_argument("--seed", type=int, default=20260101, help="of the captions and of the first one's noise")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16", help="of the transformer")
    parser.add_argument("--batch", type=int, default=16)


def head_of(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """What the figures are of."""
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "settings": {key: getattr(args, key) for key in ("captions", "seed", "steps", "guidance", "dtype")},
    }


class Subject:
    """The demo model and the captions that it makes videos of."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, torch.device(args.device)
        self.pipe = WanPipeline.from_pretrained(
            PIPELINE_FOLDER,
            dtype={"transformer": getattr(torch, args.dtype), "default": torch.float32},
            local_files_only=True,
        ).to(self.device)
        self.pipe.set_progress_bar_config(disable=True)
        scenes = sample_scenes(random.Random(f"evaluation {args.seed}"), args.captions, held_out=True)
        self.texts = [caption(scene) for scene in scenes]

    def videos(self, row: Row | None) -> tuple[Tensor, list[dict[str, Any]]]:
        """The videos of all captions on the device, and the figures of each batch."""
        videos, figures = [], []
        for start in range(0, len(self.texts), self.args.batch):
            steps = self.args.steps
            dense = warmup(steps, row.warmup) if row else steps
            meter = Meter(row.make(steps) if row else None, steps, self.branches, dense)
            with metered(self.pipe.transformer, meter):
                videos.append(self.generate(start).to(self.device))
            figures.append(meter.figures())
        return torch.cat(videos), figures

    @property
    def branches(self) -> int:
        """Forwards in each step."""
        return 2 if self.args.guidance > 1 else 1

    def generate(self, start: int) -> Tensor:
        """The videos of a batch that begins with this caption."""
        args, part = self.args, self.texts[start : start + self.args.batch]
        seeds = [args.seed + start + i for i in range(len(part))]
        return generate(self.pipe, part, seeds, args.steps, args.guidance)
