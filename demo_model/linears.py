"""How close the demo model's videos stay with the linear layers of its blocks in e4m3.

    python -m demo_model.linears --output linears-fidelity.json

Each setting makes the videos of the same held-out captions from the same noise, with the layers in bfloat16 and in
e4m3 (`memory.quantization` of a catalog, by torchao). Each is compared with the dense video in bfloat16, and those of
AdaSpa with their own setting's in bfloat16. A dense video with the transformer in float32 tells what rounding to
bfloat16 does.
"""

import argparse
import random
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import torch
from adaspa import AdaSpaConfig
from adaspa_demo_model import PIPELINE_FOLDER
from adaspa_worker.engines import linears
from diffusers import WanPipeline
from torch import Tensor

from benchmarks.results import Result, add, ran_on, write
from demo_model.evaluation import share_right
from demo_model.fidelity import distances, judge, readers, run
from demo_model.scenes import Scene, sample_scenes
from demo_model.variants import Variant

SETTINGS: dict[str, AdaSpaConfig | None] = {
    "dense": None,
    "paper": AdaSpaConfig.paper(),
    "balanced": AdaSpaConfig.preset("balanced"),
    "fast": AdaSpaConfig.preset("fast"),
}
LINEARS = ("bfloat16", "float8")


def pipeline(kind: str, device: torch.device) -> WanPipeline:
    """The demo model, its transformer in ``kind``."""
    dtype = torch.float32 if kind == "float32" else torch.bfloat16
    pipe = WanPipeline.from_pretrained(
        PIPELINE_FOLDER, dtype={"transformer": dtype, "default": torch.float32}, local_files_only=True
    ).to(device)
    pipe.set_progress_bar_config(disable=True)
    if kind == "float8":
        in_e4m3(pipe.transformer, device)
    return pipe


def in_e4m3(transformer: Any, device: torch.device) -> None:
    """Have the layers multiply in e4m3, on a CPU too: PyTorch can, but a worker and torchao refuse it."""
    with ExitStack() as changes:
        if device.type == "cpu":
            changes.enter_context(patch.object(linears, "check_device"))
            changes.enter_context(patch("torchao.quantization.quant_api._check_hardware_support"))
        linears.compute_in_float8(transformer, device)


def videos_of(kind: str, name: str, scenes: list[Scene], args: argparse.Namespace) -> Tensor:
    """The videos of all scenes, by a setting and linear layers in ``kind``; uint8 on the CPU."""
    config = SETTINGS[name]
    variant = None if config is None else Variant(name, name, ("grid",), config)
    videos, _ = run(pipeline(kind, torch.device(args.device)), variant, scenes, args)
    return videos


def asked(about: str | None, settings: Iterable[str], batch: int) -> argparse.Namespace:
    """Read the options of a comparison of the videos of some settings."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the JSON file, written after every row")
    parser.add_argument("--settings", nargs="+", choices=list(settings), default=list(settings))
    parser.add_argument("--captions", type=int, default=64)
    parser.add_argument("--seed", type=int, default=20260101, help="of the captions and of the first one's noise")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=batch)
    return parser.parse_args()


def begun(args: argparse.Namespace) -> Result:
    """Return the result of a comparison before its first row."""
    return {
        **ran_on(quick=torch.device(args.device).type == "cpu"),
        "diffusers": diffusers.__version__,
        **{key: getattr(args, key) for key in ("captions", "seed", "steps", "guidance")},
        "complete": False,
        "rows": [],
    }


def main() -> None:
    args = asked(__doc__, SETTINGS, batch=32)
    device = torch.device(args.device)
    scenes = sample_scenes(random.Random(f"evaluation {args.seed}"), args.captions, held_out=True)
    result = begun(args)
    make = partial(videos_of, scenes=scenes, args=args)
    reference = make("bfloat16", "dense")
    with readers(device) as pool:

        def told(kind: str, name: str, videos: Tensor, own: Tensor | None = None) -> None:
            right = share_right(list(pool.map(judge, videos.numpy(), scenes)))
            row: dict[str, Any] = {"setting": name, "linears": kind, "right": right["all_attributes"]}
            if videos is not reference:
                row["to_dense"] = distances(videos.to(device), reference.to(device), None)
            if own is not None:
                row["to_own"] = distances(videos.to(device), own.to(device), None)
            add(result, row, args.output)

        told("bfloat16", "dense", reference)
        told("float32", "dense", make("float32", "dense"))
        for name in args.settings:
            own = reference if name == "dense" else make("bfloat16", name)
            if name != "dense":
                told("bfloat16", name, own)
            told("float8", name, make("float8", name), None if name == "dense" else own)
    result["complete"] = True
    write(result, args.output)


if __name__ == "__main__":
    main()
