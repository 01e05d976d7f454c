r"""What diffusers' step caches and AdaSpa come to on the demo model, each alone and together: PSNR against seconds.

    python -m demo_model.caches --output caches.json

    python -m demo_model.caches --output caches-presets.json --once --steps 50 --together fast balanced \
        --caches "mag 0.06" --linears float8 --dense-precision int8_fp8

    python -m demo_model.caches --output caches-paper.json --once --steps 50 --together paper-128 \
        --caches "mag 0.06" --linears float8 --dense-precision int8_fp8 --sparse-precision int8_fp8

Every row makes the videos of the same held-out captions from the same noise, in one batch, once to warm up (a kernel's
first use compiles it) and once for its seconds; with ``--once`` they are made once, and the seconds mean nothing. The
PSNR is that to the dense videos without a cache. Where a lower precision is named, all rows follow once more in it.
Rows are written one by one.
"""

import argparse
import io
import json
import random
import re
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from datetime import date
from pathlib import Path
from typing import Any, get_args

import adaspa
import diffusers
import torch
from adaspa import AdaSpaConfig
from adaspa.ops.call import Precision
from adaspa_demo_model import PIPELINE_FOLDER
from adaspa_worker.comparison import psnr
from diffusers import WanPipeline
from diffusers.hooks import FirstBlockCacheConfig, MagCacheConfig, SeaCacheConfig, TaylorSeerCacheConfig
from torch import Tensor

from demo_model.evaluation import generate
from demo_model.linears import LINEARS, in_e4m3
from demo_model.scenes import caption, sample_scenes

ATTENTION = {
    "dense": None,
    "mass 0.95": AdaSpaConfig(selection="retained_mass", mass=0.95, warmup=3, searches=(3, 10, 25), query_stride=4),
    "mass 0.9": AdaSpaConfig(selection="retained_mass", mass=0.9, warmup=3, searches=(3, 10, 25), query_stride=4),
    "mass 0.98": AdaSpaConfig(selection="retained_mass", mass=0.98, warmup=10, searches=(10, 30), query_stride=4),
    **{intent: AdaSpaConfig.preset(intent, skip_short=False) for intent in ("quality", "balanced", "fast")},
    "paper": AdaSpaConfig.paper(),
    "paper-128": AdaSpaConfig.paper().replace(query_block_size=128),
}
SETTINGS = ("captions", "seed", "steps", "guidance")
PRECISIONS = ("linears", "dense_precision", "sparse_precision")
TOGETHER = "mass 0.95"
ALONE = ("mass 0.9", "mass 0.98")
"""Without a cache, beside `TOGETHER`."""


def caches(steps: int, ratios: list[float]) -> Iterator[tuple[str, Any]]:
    """The caches by name, the most telling first."""
    for threshold in (0.1, 0.05, 0.2):
        yield f"first_block {threshold}", FirstBlockCacheConfig(threshold)
    for interval in (2, 3):
        yield (
            f"taylor_seer {interval}",
            TaylorSeerCacheConfig(cache_interval=interval, disable_cache_before_step=3, use_lite_mode=True),
        )
    for threshold in (0.06, 0.2):
        yield f"mag {threshold}", MagCacheConfig(threshold, num_inference_steps=steps, mag_ratios=list(ratios))
    for threshold in (0.25, 0.5):
        yield f"sea {threshold}", SeaCacheConfig(threshold)


class Subject:
    """The demo model, and the captions that it makes videos of."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, torch.device(args.device)
        low = torch.bfloat16 if self.device.type == "cuda" or args.linears == "float8" else torch.float32
        self.precisions: dict[str, Any] = dict.fromkeys(PRECISIONS[1:], "full")
        self.linears = LINEARS[0]
        self.pipe = WanPipeline.from_pretrained(
            PIPELINE_FOLDER, dtype={"transformer": low, "default": torch.float32}, local_files_only=True
        ).to(self.device)
        self.pipe.set_progress_bar_config(disable=True)
        scenes = sample_scenes(random.Random(f"evaluation {args.seed}"), args.captions, held_out=True)
        self.texts = [caption(scene) for scene in scenes]

    def lower_precision(self) -> None:
        """Have all further videos made in the precision that the arguments name."""
        if self.args.linears == "float8":
            in_e4m3(self.pipe.transformer, self.device)
        self.precisions = {name: getattr(self.args, name) for name in self.precisions}
        self.linears = self.args.linears

    def videos(self) -> tuple[Tensor, float]:
        """The videos, and the seconds that they took."""
        seeds = [self.args.seed + i for i in range(len(self.texts))]
        begin = time.perf_counter()
        made = generate(self.pipe, self.texts, seeds, self.args.steps, self.args.guidance)
        return made, time.perf_counter() - begin

    def run(self, config: AdaSpaConfig | None, cache: Any) -> tuple[Tensor, dict[str, Any]]:
        """The videos with AdaSpa and a cache, and the figures of a row."""
        transformer = self.pipe.transformer
        config = config if config is not None else AdaSpaConfig.preset("exact")
        handle = adaspa.apply(self.pipe, config.replace(**self.precisions))[0]
        try:
            if cache is not None:
                transformer.enable_cache(cache)
            if not self.args.once:
                self.videos()
            made, seconds = self.videos()
            report = handle.report()
        finally:
            if transformer.is_cache_enabled:
                transformer.disable_cache()
            adaspa.remove(self.pipe)
        figures = {name: report[name] for name in ("attention_work", "density", "attention_calls", "fell_back")}
        timed = {} if self.args.once else {"seconds": round(seconds, 3)}
        return made, {"linears": self.linears, **self.precisions, **timed, **figures}

    def ratios(self) -> list[float]:
        """The magnitude ratios that MagCache goes by, of a run that it calibrates itself by."""
        calibration = MagCacheConfig(calibrate=True, num_inference_steps=self.args.steps)
        with redirect_stdout(io.StringIO()) as said:
            self.run(None, calibration)
        found: list[float] = json.loads(re.findall(r"^\[.*\d\]$", said.getvalue(), re.MULTILINE)[0])
        return found


def measure(args: argparse.Namespace) -> None:
    subject = Subject(args)
    result: dict[str, Any] = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if subject.device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "settings": {key: getattr(args, key) for key in SETTINGS},
        "rows": [],
    }
    dense: Tensor | None = None

    def add(attention: str, name: str, cache: Any = None) -> None:
        nonlocal dense
        try:
            made, figures = subject.run(ATTENTION[attention], cache)
        except Exception as error:  # a cache may not take the model: the others go on
            figures = {"error": f"{type(error).__name__}: {error}"[:300]}
        else:
            dense = made if dense is None else dense
            figures["psnr"] = round(sum(map(psnr, made, dense)) / len(made), 3)
        result["rows"].append({"attention": attention, "cache": name, **figures})
        args.output.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result["rows"][-1]), flush=True)

    add("dense", "none")
    known = subject.ratios()
    result["mag_ratios"] = [round(ratio, 5) for ratio in known]
    lowers = [getattr(args, name) for name in PRECISIONS] != [LINEARS[0], "full", "full"]
    for lowered in (False, True) if lowers else (False,):
        if lowered:
            subject.lower_precision()
        for name, cache in caches(args.steps, known):
            for attention in ("dense", *args.together) if name in (args.caches or [name]) else ():
                add(attention, name, cache)
        for attention in (*args.together, *(ALONE if TOGETHER in args.together else ())):
            add(attention, "none")
        add("dense", "none")  # without a lower precision once more: how much seconds differ by themselves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the JSON file, written after every row")
    others = list(ATTENTION)[1:]
    parser.add_argument("--together", nargs="+", choices=others, default=[TOGETHER], help="with each cache")
    parser.add_argument("--caches", nargs="+", help="names of those to measure; without, all")
    parser.add_argument("--captions", type=int, default=16)
    parser.add_argument("--seed", type=int, default=20260101, help="of the captions and of the first one's noise")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--linears", choices=LINEARS, default=LINEARS[0], help="of the blocks' linear layers")
    for kind in ("dense", "sparse"):
        parser.add_argument(f"--{kind}-precision", choices=get_args(Precision), default="full", help=f"of {kind} steps")
    parser.add_argument("--once", action="store_true", help="make the videos of a row once, without their seconds")
    parser.add_argument("--device", default="cuda")
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
