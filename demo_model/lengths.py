"""Measure how sparse attention changes with the length of a clip, on the demo models: 2,304, 9,216, 21,504 tokens.

    python -m demo_model.lengths --output lengths.json --sheet lengths.png

At each length the long model (`long_training`) draws the same held-out captions, and at the shortest the small one
does, too. Dense attention is looked at in a few steps (`stability`); then AdaSpa's videos of the same noise are
compared with the dense ones, clip by clip. All captions are drawn densely and read back (`reading`) at the size and the
number of frames of the small model's clips, so that the figures mean the same at every length. What is done is written
at once; after `--minutes` nothing new is begun.

The long model's weights ship if `shortfalls` finds none; otherwise the command ends with status 1.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import adaspa
import diffusers
import torch
from adaspa import AdaSpaConfig
from adaspa_demo_model import PIPELINE_FOLDER
from adaspa_worker.comparison import psnr
from diffusers import WanPipeline
from torch import Tensor

from demo_model.evaluation import share_right
from demo_model.fidelity import judge, readers
from demo_model.field.meter import metered
from demo_model.long_clips import LENGTHS, LONG_WEIGHTS, SHORT, Length
from demo_model.long_model import as_short, digest_of, draw, load
from demo_model.scenes import caption, sample_scenes
from demo_model.sheet import save_sheet
from demo_model.stability import Watch

RIGHT = 0.95  # of all attributes, at every length: what ships reaches
PAPER = AdaSpaConfig.paper()
DENSITIES = {
    "density 0.2": PAPER,
    "density 0.1": PAPER.replace(sparsity=0.9),
}
PRESETS = {intent: AdaSpaConfig.preset(intent, skip_short=False) for intent in ("quality", "balanced", "fast")}
VARIANTS = DENSITIES | PRESETS
REPORTED = ("density", "recall", "attention_work")


class Subject:
    """A demo model that draws the first captions at one length.

    Args:
        name: ``long`` or ``small``.
        pipe: on its device; subjects of one model share it.
    """

    def __init__(self, name: str, pipe: WanPipeline, length: Length, texts: list[str], args: argparse.Namespace):
        self.name, self.pipe, self.length, self.texts, self.args = name, pipe, length, texts, args
        self.dense = torch.zeros(0, dtype=torch.uint8)
        self.row: dict[str, Any] = {
            "model": name,
            "frames": length.frames,
            "side": length.side,
            "tokens": length.tokens,
            "shift": round(length.shift, 4),
            "variants": {},
        }

    def draw(self, start: int, count: int) -> Tensor:
        """Videos of some captions, each from its own noise: uint8 [count, frames, side, side, 3] on the CPU."""
        args, chosen = self.args, range(start, start + count)
        texts, seeds = [self.texts[i] for i in chosen], [args.seed + i for i in chosen]
        return draw(self.pipe, texts, seeds, args.steps, args.guidance, length=self.length)

    def watch(self) -> None:
        """Draw the first captions densely and look at the attention."""
        found: list[dict[str, dict[str, list[float]]]] = []
        videos = []
        for start, count in self._batches(0, self.args.watched):
            watch = Watch(self.args.steps, 2 if self.args.guidance > 1 else 1)
            videos.append(self._draw_densely(start, count, watch))
            found.append(watch.figures())
        self.dense = torch.cat(videos)
        self.row["attention"] = {
            name: {step: [value for part in found for value in part[name][step]] for step in steps}
            for name, steps in found[0].items()
        }

    def draw_rest(self) -> Iterator[Tensor]:
        """All captions drawn densely, batch by batch; those that were watched are there already."""
        yield self.dense
        for start, count in self._batches(len(self.dense), len(self.texts)):
            yield self._draw_densely(start, count, Watch(self.args.steps, 1, looks=()))

    def _draw_densely(self, start: int, count: int, watch: Watch) -> Tensor:
        with metered(self.pipe.transformer, watch):
            return self.draw(start, count)

    def compare(self, name: str, config: AdaSpaConfig) -> None:
        """Draw the watched captions with AdaSpa and compare the videos with the dense ones."""
        reports, values = [], []
        for start, count in self._batches(0, len(self.dense)):
            with applied(self.pipe.transformer, config) as handle:
                videos = self.draw(start, count)
                reports.append((count, handle.report()))
            values += [psnr(a, b) for a, b in zip(videos, self.dense[start : start + count], strict=True)]
        total = sum(count for count, _ in reports)
        figures = {key: round(sum(count * report[key] for count, report in reports) / total, 5) for key in REPORTED}
        self.row["variants"][name] = {
            **figures,
            "psnr": round(sum(values) / len(values), 4),
            "clips": [round(value, 2) for value in values],
            "config": config.to_dict(),
        }

    def _batches(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        size = self.args.batch
        return ((at, min(size, end - at)) for at in range(start, end, size))


@contextmanager
def applied(transformer: Any, config: AdaSpaConfig) -> Iterator[adaspa.AdaSpaHandle]:
    handle = adaspa.apply(transformer, config)
    try:
        yield handle
    finally:
        adaspa.remove(transformer)


def shortfalls(rows: list[dict[str, Any]]) -> list[str]:
    """What the long model lacks of what it must reach; a length that was not evaluated lacks all."""
    reached = {row["tokens"]: row.get("right", {}).get("all_attributes", 0.0) for row in rows if row["model"] == "long"}
    return [f"{tokens} tokens: {at:.3g} of {RIGHT:g}" for tokens, at in reached.items() if at < RIGHT]


def measure(args: argparse.Namespace) -> list[str]:
    """Write everything to `args.output`, piece by piece; returns what the long model lacks."""
    started, device = time.monotonic(), torch.device(args.device)
    scenes = sample_scenes(random.Random(f"evaluation {args.seed}"), args.captions, held_out=True)
    texts = [caption(scene) for scene in scenes]
    folders = (args.transformer, PIPELINE_FOLDER / "transformer")
    long, small = (load(folder, device, args.dtype) for folder in folders)
    lengths = [LENGTHS[name] for name in args.lengths]
    subjects = [Subject("long", long, length, texts, args) for length in sorted(lengths, key=lambda at: -at.tokens)]
    subjects.append(Subject("small", small, SHORT, texts, args))
    result: dict[str, Any] = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "weights": digest_of(args.transformer),
        "settings": {key: getattr(args, key) for key in ("captions", "watched", "seed", "steps", "guidance", "dtype")},
        "rows": [subject.row for subject in subjects],
    }

    def is_over(done: str) -> bool:
        seconds = time.monotonic() - started
        args.output.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{seconds:.1f} s: {done}", flush=True)
        return seconds > 60 * args.minutes

    marks: dict[int, list[Future[dict[str, list[bool]]]]] = {i: [] for i in range(len(subjects))}
    with readers(device) as pool:
        for subject in subjects:
            subject.watch()
            is_over(f"{subject.name} at {subject.length.tokens} tokens, {len(subject.dense)} captions, dense")
        shown = {f"{subject.length.tokens} tokens": as_short(subject.dense) for subject in subjects[:-1]}
        save_sheet(args.sheet, texts[: args.watched], shown)
        order = [(i, "read") for i in range(len(subjects))]
        order += [(i, name) for name in args.variants for i in range(len(subjects))]
        for i, name in order:
            subject = subjects[i]
            if name == "read":
                for videos in subject.draw_rest():
                    reduced = as_short(videos).numpy()
                    at = len(marks[i])
                    marks[i] += [pool.submit(judge, *pair) for pair in zip(reduced, scenes[at:], strict=False)]
            else:
                subject.compare(name, VARIANTS[name])
            if is_over(f"{subject.name} at {subject.length.tokens} tokens: {name}"):
                break
        for i, futures in marks.items():
            if futures:
                subjects[i].row["right"] = share_right([future.result() for future in futures])
    is_over("all read")
    return shortfalls(result["rows"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transformer", type=Path, default=LONG_WEIGHTS, help="diffusers folder of the long model's")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file, written after every piece")
    parser.add_argument("--sheet", type=Path, required=True, help="PNG of 8 captions at each length")
    parser.add_argument("--lengths", nargs="+", choices=list(LENGTHS), default=list(LENGTHS))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--captions", type=int, default=64)
    parser.add_argument("--watched", type=int, default=16, help="of the captions: those whose attention is looked at")
    parser.add_argument("--seed", type=int, default=20260101, help="of the captions and of the first one's noise")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16", help="of the transformers")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing new after this time")
    args = parser.parse_args()
    if not 1 <= args.watched <= args.captions or args.batch < 1 or args.steps < 2:
        parser.error("--batch must be at least 1, --steps at least 2, --watched at most --captions")
    if short := measure(args):
        raise SystemExit("falls short: " + "; ".join(short))


if __name__ == "__main__":
    main()
