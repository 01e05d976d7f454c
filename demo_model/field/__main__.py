"""Measure the field's methods beside ours on the demo model.

    python -m demo_model.field --output field.json

Every row makes the videos of the same held-out captions from the same noise as dense attention does, and has the PSNR
and SSIM of each clip to its dense video. All methods are computed in the open here, in the same arithmetic: what they
cost is counted in multiplications, and no seconds are. Rows are written one by one; a row that the file has already is
not run again.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import diffusers
import torch
from adaspa.models.processor import project, project_out, rotate, split_heads
from adaspa_demo_model import PIPELINE_FOLDER
from adaspa_worker.comparison import psnr, ssim
from diffusers import WanPipeline
from torch import Tensor

from demo_model.evaluation import generate
from demo_model.field.call import Call, Method, Place
from demo_model.field.grid import Row, rows, warmup
from demo_model.field.measures import Tally
from demo_model.scenes import caption, sample_scenes

LOOKED_AT = 5
"""Of so many sparse steps one is looked at closely."""


class Meter:
    """Runs a method behind the warm-up, and adds up what it cost and lost.

    Args:
        method: None for dense attention throughout.
        steps: of the denoising.
        branches: forwards in each step.
    """

    def __init__(self, method: Method | None, steps: int, branches: int) -> None:
        self.method, self.steps, self.branches = method, steps, branches
        self.forwards, self.grid, self.tally = -1, (0, 0, 0), Tally()
        self.work: list[Tensor] = []
        self.share: list[Tensor] = []
        self.router: list[float] = []

    def begin_forward(self, _: Any, given: dict[str, Any]) -> None:
        self.forwards += 1
        self.grid = tuple(given["hidden_states"].shape[2:])

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        """``[B, H, S, D]``."""
        step, branch = divmod(self.forwards, self.branches)
        call = Call(q, k, v, Place(step, branch, layer), self.grid)
        if self.method is None or step < warmup(self.steps):
            self.work.append(torch.ones(len(q), device=q.device))
            return call.dense
        outcome = self.method.attend(call)
        self.work.append(outcome.work)
        if outcome.keep is not None:
            self.share.append(outcome.share)
            self.router.append(outcome.router)
        if (step - warmup(self.steps)) % LOOKED_AT == LOOKED_AT - 1:
            self.tally.look(call, outcome)
        return outcome.out

    def figures(self) -> dict[str, Any]:
        """Attention work of the whole denoising, density and router's cost of its sparse calls, and what was lost."""
        work = torch.stack(self.work).mean(0).tolist()
        share = torch.stack(self.share).mean(0).tolist() if self.share else [1.0] * len(work)
        router = sum(self.router) / len(self.router) if self.router else 0.0
        return {"work": work, "density": share, "router": router, **self.tally.figures()}


class OpenProcessor:
    """Self-attention of a Wan layer whose attention is the meter's."""

    def __init__(self, meter: Meter, layer: int) -> None:
        self.meter, self.layer = meter, layer

    def __call__(
        self, attn: Any, hidden_states: Tensor, _: None, __: None, rotary_emb: tuple[Tensor, Tensor]
    ) -> Tensor:
        query, key, value = project(attn, hidden_states)
        query, key, value = split_heads(attn, (attn.norm_q(query), attn.norm_k(key), value))
        cos, sin = (table[0, :, 0] for table in rotary_emb)
        query, key = (rotate(x, (cos, sin)) for x in (query, key))
        out = self.meter.attend(*(x.transpose(1, 2) for x in (query, key, value)), self.layer)
        return project_out(attn, out.transpose(1, 2).flatten(2, 3))


@contextmanager
def metered(transformer: Any, meter: Meter) -> Iterator[None]:
    """The transformer's self-attention through the meter."""
    before = [block.attn1.processor for block in transformer.blocks]
    hook = transformer.register_forward_pre_hook(
        lambda module, args, given: meter.begin_forward(module, given), with_kwargs=True
    )
    for layer, block in enumerate(transformer.blocks):
        block.attn1.set_processor(OpenProcessor(meter, layer))
    try:
        yield
    finally:
        hook.remove()
        for block, processor in zip(transformer.blocks, before, strict=True):
            block.attn1.set_processor(processor)


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
        args, branches = self.args, 2 if self.args.guidance > 1 else 1
        videos, figures = [], []
        for start in range(0, len(self.texts), args.batch):
            part = self.texts[start : start + args.batch]
            meter = Meter(row.make(args.steps) if row else None, args.steps, branches)
            with metered(self.pipe.transformer, meter):
                seeds = [args.seed + start + i for i in range(len(part))]
                videos.append(generate(self.pipe, part, seeds, args.steps, args.guidance).to(self.device))
            figures.append(meter.figures())
        return torch.cat(videos), figures


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all batches: lists by clip one behind the other, others as means."""
    first = parts[0]
    found: dict[str, Any] = {key: [x for part in parts for x in part[key]] for key in ("work", "density")}
    found["work"], found["density"] = ([round(x, 5) for x in found[key]] for key in ("work", "density"))
    found["router"] = round(first["router"], 5)
    if "by_clip" in first:
        found["by_clip"] = {key: [x for part in parts for x in part["by_clip"][key]] for key in first["by_clip"]}
        for name in ("by_layer", "spectrum"):
            found[name] = {
                key: [round(sum(x) / len(x), 7) for x in zip(*(part[name][key] for part in parts), strict=True)]
                for key in first[name]
            }
    return found


def measure(args: argparse.Namespace, chosen: list[Row]) -> None:
    """All chosen rows that the file does not have yet, until the time is over."""
    started = time.monotonic()
    torch.backends.cuda.matmul.allow_tf32 = True  # products of bfloat16 are exact in it
    subject = Subject(args)
    result: dict[str, Any] = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if subject.device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "settings": {key: getattr(args, key) for key in ("captions", "seed", "steps", "guidance", "dtype")},
        "rows": [],
    }
    if args.output.exists():
        old = json.loads(args.output.read_text())
        if old["settings"] != result["settings"]:
            raise ValueError(f"{args.output} was measured with other settings: {old['settings']}")
        result["rows"] = old["rows"]
    dense, _ = subject.videos(None)
    for row in chosen:
        if any(found["name"] == row.name for found in result["rows"]):
            continue
        if time.monotonic() - started > 60 * args.minutes:
            print("out of time: run it again for the rest", flush=True)
            break
        begin = time.monotonic()
        videos, parts = subject.videos(row)
        pairs = list(zip(videos, dense, strict=True))
        entry = {"name": row.name, "method": row.method, "setting": row.setting, "group": row.group, **joined(parts)}
        entry |= {"psnr": [psnr(a, b) for a, b in pairs], "ssim": [ssim(a, b) for a, b in pairs]}
        result["rows"].append(entry)
        args.output.write_text(json.dumps(result) + "\n")
        print(brief(entry), f"{time.monotonic() - begin:.1f} s", flush=True)


def brief(row: dict[str, Any]) -> str:
    def mean(values: list[float]) -> str:
        return f"{sum(values) / len(values):.4f}"

    told = {"work": row["work"], "density": row["density"], "psnr": row["psnr"], **row.get("by_clip", {})}
    return f"{row['name']}: " + " ".join(f"{key} {mean(values)}" for key, values in told.items())


def main() -> None:
    known = rows()
    groups = list(dict.fromkeys(row.group for row in known.values()))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the JSON file, written after every row")
    parser.add_argument("--groups", nargs="+", choices=groups, default=groups)
    parser.add_argument("--rows", nargs="+", choices=list(known), help="some rows only, instead of groups")
    parser.add_argument("--captions", type=int, default=64)
    parser.add_argument("--seed", type=int, default=20260101, help="of the captions and of the first one's noise")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16", help="of the transformer")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=9.0, help="start no new row after this time")
    args = parser.parse_args()
    if args.captions < 1 or args.batch < 1 or args.steps < 5:
        parser.error("--captions and --batch must be at least 1, --steps at least 5")
    measure(
        args,
        [known[name] for name in args.rows] if args.rows else [r for r in known.values() if r.group in args.groups],
    )


if __name__ == "__main__":
    main()
