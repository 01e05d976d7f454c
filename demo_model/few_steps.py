"""Which schedule suits a few-step model, on the distilled demo model: the picture that each keeps, by its work.

    python -m demo_model.few_steps --lora eight-steps.safetensors --output few_steps.json

Compared are AdaSpa's schedules, with and without a dense warm-up; what earlier requests can bring: patterns, and the
number of blocks that each head keeps; and a router that estimates the mass in every step. What is carried over comes
from dense requests of other captions. The work is that of all self-attention, in dense steps, searches and routers
included. Every method makes the videos of the same held-out captions from the same noise.
"""

import argparse
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import diffusers
import torch
from adaspa import AdaSpaConfig, ops
from adaspa.attention import followed
from adaspa.index import BlockIndex
from adaspa.ledger import SCORING
from adaspa.ops.keep_blocks import keep_blocks
from adaspa.residual import fading, mean_residual
from adaspa.selection import Geometry, RetainedMass, Search, Selected
from adaspa.selection.sub_block import SubBlock
from adaspa_demo_model import PIPELINE_FOLDER
from diffusers import WanPipeline
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from demo_model.evaluation import generate
from demo_model.fidelity import Rows, distances, judge, readers
from demo_model.low_rank import header_of, load_low_ranks
from demo_model.scenes import caption, sample_scenes

TOKENS = 9 * 16 * 16  # of a clip
BLOCK, STRIDE = 64, 4  # tokens of a block; rows from one scored query row to the next
MASSES = (0.9, 0.8, 0.95)
ROUTER = SubBlock(tokens=16)
ROUTING = SCORING / ROUTER.tokens**2  # cost of its products, in dense calls
CALIBRATION = 20260103  # seed of the captions that what is carried over comes from


@dataclass(frozen=True)
class Method:
    """What self-attention does in each step.

    Args:
        first: `dense`, `search` (dense, with a search), `carried` (the pattern of earlier requests) or `router`.
        searches: later steps that search by the cached LSE; the others use the last pattern.
        latest: searches go by the LSE of the step before, sparse as it may be, not by that of the first step.
        always: the first step's way in every step.
        budgets: the router keeps as many blocks as each head of earlier requests did; otherwise equally many.
        residual: sparse steps get back what the dense output of the search had beside that of its pattern.
    """

    first: str
    searches: tuple[int, ...] = ()
    latest: bool = False
    always: bool = False
    budgets: bool = False
    residual: bool = False


def methods(steps: int) -> dict[str, Method]:
    """All of them by name."""
    preset = AdaSpaConfig(warmup=3, searches=(3, 10, 25))
    usual = preset.resolve(steps).schedule.searches
    later = tuple(range(1, steps))
    return {
        "a dense step, then the preset's searches": Method("dense", usual),
        "a search in the first step alone": Method("search"),
        "a search in the first step alone, with its residual": Method("search", residual=True),
        "a search in every step": Method("search", later),
        "a search in every step, by the LSE of the step before": Method("search", later, latest=True),
        "a carried pattern first, then a search in the second step": Method("carried", (1,)),
        "a carried pattern first, then a search in every step by the LSE of the step before": Method(
            "carried", later, latest=True
        ),
        "a carried pattern in every step": Method("carried", always=True),
        "a router in every step": Method("router", always=True),
        "a router in every step, with carried budgets": Method("router", always=True, budgets=True),
    }


class Calls(TorchFunctionMode):
    """Hands the transformer's self-attention to `attend`, with the step and the layer; VAE and text have theirs."""

    def __init__(self, layers: int, attend: Callable[..., Tensor]):
        super().__init__()
        self.layers, self.attend, self.count = layers, attend, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func is not F.scaled_dot_product_attention:
            return func(*args, **given)
        q, k, v = (*args, *(given[name] for name in ("query", "key", "value")[len(args) :]))[:3]
        if not q.shape[2] == k.shape[2] == TOKENS:
            return func(*args, **given)
        step, layer = divmod(self.count, self.layers)
        self.count += 1
        return self.attend(step, layer, q, k, v)


class Carried:
    """Of earlier requests: the mean block mass of each step and layer, and how many blocks its heads kept."""

    def __init__(self) -> None:
        self.mass: dict[tuple[int, int], Tensor] = {}
        self.kept: dict[tuple[int, int, float], Tensor] = {}

    def attend(self, step: int, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Dense, and noted down."""
        out, lse = ops.dense_attention(q, k, v)
        mass = ops.block_mass(q, k, lse, key_block=BLOCK)
        self.mass[step, layer] = (mass / mass.sum(-1, keepdim=True)).mean(0, keepdim=True)
        for share in MASSES:
            counts = by_mass(share, q, k, mass).index.counts
            self.kept[step, layer, share] = counts.float().mean(dim=(0, 2))
        return out

    def mean(self, share: float) -> float:
        """Blocks that a row kept, over all steps, layers and heads."""
        rows = [kept for (_, _, kept_share), kept in self.kept.items() if kept_share == share]
        return float(torch.stack(rows).mean())


class Attention:
    """Attention as a method has it, at a share of mass to keep; adds up its work and its density."""

    def __init__(self, method: Method, share: float, carried: Carried, steps: int):
        self.method, self.share, self.carried, self.steps = method, share, carried, steps
        self.index: dict[int, BlockIndex] = {}
        self.lost: dict[int, Tensor] = {}
        self.lse: dict[int, Tensor] = {}
        self.work: list[Tensor] = []

    def attend(self, step: int, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        way = self.method.first
        if step and not self.method.always:
            way = "again" if step in self.method.searches else "reuse"
            if self.method.first == "dense" and step == self.method.searches[0]:
                way = "search"
        cost = 0.0
        if way in ("dense", "search"):
            out, self.lse[layer] = ops.dense_attention(q, k, v)
            cost = 1.0
        if way in ("search", "again"):
            cost += 0.0 if way == "search" and step else SCORING / STRIDE  # behind a dense step it is fused
            mass = ops.block_mass(q, k, self.lse[layer], key_block=BLOCK, query_stride=STRIDE)
            self.index[layer] = by_mass(self.share, q, k, mass).index
        elif way == "carried":
            mass = self.carried.mass[step, layer].expand(len(q), -1, -1, -1).contiguous()
            self.index[layer] = by_mass(self.share, q, k, mass).index
        elif way == "router":
            cost += ROUTING
            self.index[layer] = self.routed(step, layer, q, k)
        if way not in ("dense", "search"):
            out, lse = ops.block_sparse_attention(q, k, v, self.index[layer])
            if self.method.latest or not step:
                self.lse[layer] = lse
            elif step + 1 in self.method.searches:
                self.lse[layer] = followed(self.lse[layer], lse)
            if self.method.residual:
                ops.add_residual(out, self.lost[layer], BLOCK, fading(step / self.steps))
            self.work.append(cost + self.density(layer))
        elif self.method.residual:
            self.lost[layer] = mean_residual((q, k, v), out, self.index[layer], None)
            self.work.append(cost + self.density(layer))
        else:
            self.work.append(torch.tensor(cost, device=q.device))
        return out

    def density(self, layer: int) -> Tensor:
        """Share of the key blocks that the pattern in use keeps."""
        return self.index[layer].counts.float().mean() / self.index[layer].num_key_blocks

    def routed(self, step: int, layer: int, q: Tensor, k: Tensor) -> BlockIndex:
        """The blocks of the highest estimated mass."""
        geometry = Geometry(q.shape[2], BLOCK, BLOCK)
        empty = torch.zeros(0, device=q.device)
        scores = ROUTER.scores(Search(q, k, empty, geometry)).contiguous()
        kept = self.carried.kept[step, layer, self.share]
        if not self.method.budgets:
            kept = torch.full_like(kept, self.carried.mean(self.share))
        limits = kept.round().clamp(min=1).expand(len(q), -1).contiguous()
        nothing = range(0)
        ids, counts, _ = keep_blocks(
            scores, limits, rule="count", text=nothing, text_rows=nothing, width=geometry.key_blocks
        )
        return BlockIndex(ids, counts, BLOCK, BLOCK, q.shape[2], q.shape[2])


def by_mass(share: float, q: Tensor, k: Tensor, mass: Tensor) -> Selected:
    """The fewest blocks of each row that hold a share of its mass."""
    return RetainedMass(share).select(Search(q, k, mass, Geometry(q.shape[2], BLOCK, BLOCK)))


def measure(args: argparse.Namespace) -> None:
    started, device = time.monotonic(), torch.device(args.device)
    low = torch.bfloat16 if device.type == "cuda" else torch.float32
    pipe = WanPipeline.from_pretrained(
        PIPELINE_FOLDER, dtype={"transformer": low, "default": torch.float32}, local_files_only=True
    )
    load_low_ranks(args.lora, pipe.transformer)
    pipe.to(device).set_progress_bar_config(disable=True)
    steps, layers = int(header_of(args.lora)["steps"]), len(pipe.transformer.blocks)
    scenes, others = (
        sample_scenes(random.Random(f"evaluation {seed}"), args.captions, held_out=True)
        for seed in (args.seed, CALIBRATION)
    )

    def videos(attend: Callable[..., Tensor], of: list[Any], seed: int) -> Tensor:
        seeds = [seed + i for i in range(len(of))]
        with Calls(layers, attend):
            return generate(pipe, [caption(scene) for scene in of], seeds, steps, 1.0)

    carried = Carried()
    videos(carried.attend, others, CALIBRATION)
    dense = videos(lambda _step, _layer, q, k, v: ops.dense_attention(q, k, v)[0], scenes, args.seed)
    settings = {"captions": args.captions, "seed": args.seed, "steps": steps, "mass": list(MASSES)}
    head = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "settings": settings,
    }
    rows = Rows(args.output, head, ["dense"])
    on_device = dense.to(device)
    with readers(device) as pool:

        def record(row: dict[str, Any], made: Tensor) -> None:
            pairs = zip(made.numpy(), scenes, strict=True)
            rows.add(row, [pool.submit(judge, video, scene) for video, scene in pairs])

        record({"name": "dense", "work": 1.0}, dense)
        for name, method, share in chosen(steps):
            if time.monotonic() - started > 60 * args.minutes:
                print("out of time", flush=True)
                break
            attention = Attention(method, share, carried, steps)
            made = videos(attention.attend, scenes, args.seed)
            row = {"name": name, "mass": share, "work": round(float(torch.stack(attention.work).mean()), 5)}
            record(row | distances(made.to(device), on_device, None), made)
        rows.finish()


def chosen(steps: int) -> Iterator[tuple[str, Method, float]]:
    """Methods and shares of mass, each method once before any again."""
    for share in MASSES:
        for name, method in methods(steps).items():
            yield name, method, share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lora", type=Path, required=True, help="of `distill`: its header says how many steps")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file, written after every row")
    parser.add_argument("--captions", type=int, default=32)
    parser.add_argument("--seed", type=int, default=20260101, help="of the captions and of the first one's noise")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=3.0, help="start no new row after this time")
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
