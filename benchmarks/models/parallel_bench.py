"""One model in a process of `benchmarks.models.parallel`, alone or with others: what it measures."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, ClassVar
from unittest.mock import patch

import adaspa
import torch
import torch.distributed as dist
from adaspa.config import AdaSpaConfig
from adaspa.deal import Deal
from adaspa.ops.keep_blocks import keep_blocks
from adaspa.parallel import redeal
from adaspa.parallel.exchange import Exchange
from adaspa.parallel.ranks import Ranks
from adaspa.selection.policy import Search, Selected, listed
from adaspa.selection.top_k import TopK, blocks_kept
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

from benchmarks.clock import synchronize
from benchmarks.models.blocks import blocks_of
from benchmarks.models.parallel_parts import Part, skewed_shares

WALK = replace(AdaSpaConfig.paper(), query_block_size=128, steps=8, warmup=1, searches=(1, 3))
KINDS = ("dense", "first search", "sparse, just dealt", "later search", "sparse, just dealt", "sparse", "sparse")
"""What the steps of `WALK` do; behind each search the heads are dealt."""
BRANCHES = ("cond", "uncond")


@dataclass(frozen=True)
class Skewed(TopK):
    """Keeps the top share of the blocks, times what `skewed_shares` says of the head."""

    name: ClassVar[str] = "skewed"

    def choose(self, search: Search) -> Selected:
        mass, geometry = search.block_mass, search.geometry
        kept = blocks_kept(self.sparsity, geometry.key_blocks - len(geometry.key_text))
        shares = torch.tensor(skewed_shares(search.heads.total(mass.shape[1])), device=mass.device)
        own = search.heads.own(shares.expand(mass.shape[0], -1))
        limits = len(geometry.key_text) + (kept * own).round().clamp(min=1)
        text = {"text": geometry.key_text, "text_rows": geometry.query_text}
        return listed(*keep_blocks(mass, limits, rule="count", width=int(limits.max()), **text), geometry)


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """The median of nine calls that all ranks make together, after three that are not counted."""
    times = []
    for _ in range(12):
        synchronize(device)
        dist.barrier()
        start = time.perf_counter()
        call()
        synchronize(device)
        times.append(1000 * (time.perf_counter() - start))
    return round(median(times[3:]), 3)


class Bench:
    """One model in this process, alone or with the others."""

    def __init__(self, part: Part, device: torch.device) -> None:
        self.part = part
        self.device = device
        self.model = part.few()
        torch.manual_seed(0)
        self.transformer: Any = self.model.build(device, torch.bfloat16)
        self.inputs = self.model.inputs(device, torch.bfloat16)
        self.outputs: dict[str, torch.Tensor] = {}
        self._marks: list[Any] = []
        """When blocks begin and end: events of the device, or seconds."""
        for block in blocks_of(self.transformer):
            block.register_forward_pre_hook(lambda *_: self._mark())
            block.register_forward_hook(lambda *_: self._mark())

    def walk(self, mode: str) -> Iterator[dict[str, Any]]:
        """A row for each kind of step; on a GPU, of the second of two walks: the first compiles."""
        gpus = 1 if mode == "one" else dist.get_world_size()
        handle = self._together(mode, WALK)
        for _ in range(2 if self.device.type == "cuda" else 1):
            handle.begin(WALK.steps)
            steps = [self._step(step) for step in range(len(KINDS))]
        place = {"model": self.model.name, "gpus": gpus, "mode": mode}
        for kind in dict.fromkeys(KINDS):
            found = [step for step, own in zip(steps, KINDS, strict=True) if own == kind]
            yield {
                **place,
                "step": kind,
                "seconds": round(median(seconds for seconds, _, _ in found), 4),
                "peak_bytes": max(peak for _, peak, _ in found),
                "difference": self._difference(kind, found[-1][2], first=mode == "one"),
            }
        told = ("density", "attention_work", "fell_back", "ranks", "imbalance", "even_imbalance", "cache_bytes")
        yield {**place, "step": "report", **{key: handle.report()[key] for key in told}}
        adaspa.remove(self.transformer)

    def skewed(self) -> Iterator[dict[str, Any]]:
        """A sparse step of heads that differ, with as many for each rank, and dealt by their cost."""
        selection = Skewed()
        config = replace(WALK, selection=selection, warmup=0, searches=(0,))
        shares, kept = skewed_shares(self.part.heads), 1 - selection.sparsity
        even = Deal.even(self.part.heads, dist.get_world_size())
        planned = Deal.by_cost([kept * share + redeal.EXCHANGE for share in shares], dist.get_world_size())
        handle = self._together("ulysses", config)
        for heads, worth in (("even", math.inf), ("dealt", redeal.WORTH)):
            with patch.object(redeal, "WORTH", worth):
                handle.begin(WALK.steps)
                steps = [self._step(step) for step in range(5)]
            report = handle.report()
            yield {
                "model": self.model.name,
                "gpus": dist.get_world_size(),
                "mode": "ulysses",
                "step": "sparse, skewed",
                "heads": heads,
                "seconds": round(median(seconds for seconds, _, _ in steps[2:]), 4),
                **{key: report[key] for key in ("imbalance", "even_imbalance")},
                "planned_imbalance": planned.imbalance(shares) if heads == "dealt" else even.imbalance(shares),
            }
        adaspa.remove(self.transformer)

    def exchange(self) -> dict[str, Any]:
        """Milliseconds of the exchange of one layer by itself: of heads in order, and of every second head or so."""
        part, ranks = self.part, Ranks(dist.group.WORLD)
        own = part.tokens // ranks.size
        like: dict[str, Any] = {"device": self.device, "dtype": torch.bfloat16}
        qkv = torch.randn(3, 1, own, part.heads, 128, **like).unbind()
        text = torch.randn(3, 1, part.text, part.heads, 128, **like).unbind() if part.text else ()
        row: dict[str, Any] = {"model": self.model.name, "gpus": ranks.size, "mode": "ulysses", "step": "exchange"}
        mixed = Deal(tuple(tuple(range(rank, part.heads, ranks.size)) for rank in range(ranks.size)))
        for name, deal in (("even", Deal.even(part.heads, ranks.size)), ("mixed", mixed)):
            exchange = Exchange(ranks, deal, [own] * ranks.size, self.device)
            out = exchange.to_heads(list(qkv), text)[0]

            def there(exchange: Exchange = exchange) -> object:
                return exchange.to_heads(list(qkv), text)

            def back(exchange: Exchange = exchange, out: torch.Tensor = out) -> object:
                return exchange.to_tokens(out)

            row |= {f"{name}_to_heads_ms": milliseconds(there, self.device)}
            row |= {f"{name}_to_tokens_ms": milliseconds(back, self.device)}
        return row

    def _together(self, mode: str, config: AdaSpaConfig) -> Any:
        handle = adaspa.apply(self.transformer, config)
        if mode == "ulysses":
            adaspa.parallelize(self.transformer, ulysses=dist.get_world_size())
        elif mode == "guidance":
            pipe = WanPipeline(None, None, None, FlowMatchEulerDiscreteScheduler(), self.transformer)
            pipe._guidance_scale = 5.0  # as its call sets it
            adaspa.parallelize(pipe, guidance=2, ulysses=dist.get_world_size() // 2)
        return handle

    def _step(self, step: int) -> tuple[float, int, torch.Tensor]:
        """Seconds, peak bytes above what is held and the output of one step in all its branches."""
        on_gpu = self.device.type == "cuda"
        synchronize(self.device)
        dist.barrier()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated() if on_gpu else 0
        self._marks.clear()
        start = time.perf_counter()
        outs = []
        for name in BRANCHES[: self.model.calls]:
            with self.transformer.cache_context(name):
                given = {**self.inputs, "timestep": self._timestep(step)}
                outs.append(self.transformer(**given, return_dict=False)[0])
        synchronize(self.device)
        seconds = self._whole(time.perf_counter() - start)
        peak = torch.cuda.max_memory_allocated() - held if on_gpu else 0
        if not all(out.isfinite().all() for out in outs):
            raise FloatingPointError("the output is not finite")
        return seconds, peak, outs[0]

    def _whole(self, seconds: float) -> float:
        """The seconds with as many blocks as the model has: as much more as these blocks took."""
        if self.part.blocks[0] == self.part.blocks[1]:
            return seconds
        pairs = zip(self._marks[::2], self._marks[1::2], strict=True)
        if self.device.type == "cuda":
            blocks = sum(begin.elapsed_time(end) for begin, end in pairs) / 1000
        else:
            blocks = sum(end - begin for begin, end in pairs)
        return seconds + blocks * (self.part.blocks[1] / self.part.blocks[0] - 1)

    def _mark(self) -> None:
        if self.device.type == "cuda":
            self._marks.append(torch.cuda.Event(enable_timing=True))
            self._marks[-1].record()
        else:
            self._marks.append(time.perf_counter())

    def _timestep(self, step: int) -> torch.Tensor:
        if "timestep" in self.inputs:  # of MiniMax-H3's video, sound and first frame, rising
            return torch.tensor([0.1 + step / 100, 0.05, 1.0], device=self.device)
        return torch.full((self.inputs["hidden_states"].shape[0],), 999.0 - step, device=self.device)

    def _difference(self, kind: str, out: torch.Tensor, *, first: bool) -> float | None:
        """How far the output is from that of one GPU, as a share of its norm."""
        if first:
            self.outputs[kind] = out.clone()
            return None
        one = self.outputs[kind].float()
        return round(float((out.float() - one).norm() / one.norm()), 6)
