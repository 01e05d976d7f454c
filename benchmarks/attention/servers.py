"""`python -m benchmarks.attention.servers --output servers.json`: a request's attention, ours beside SubBlock's.

One layer's attention over the 50 steps of a request, at the shapes of MiniMax-H3 and Wan: dense; AdaSpa, searches and
selection included; and SubBlock, which chooses anew in every sparse step, at the same density and with the same dense
steps before. Each step is timed by itself, a request of each in turns; milliseconds are medians over the rounds.

SubBlock's router is SGLang's own where its files are installed (``sglang_parts``), else our policy of that name;
``router_of`` says which. The kernel under its blocks of 64 x 64 is ours. Both are timed apart.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import adaspa
import torch
from adaspa import AdaSpaConfig, ops
from adaspa.index import BlockIndex
from adaspa.selection import Geometry, Search, TopK
from adaspa.selection.sub_block import SubBlock
from adaspa.self_check import Shape, Tensors, random_qkv

from benchmarks.attention import sglang_parts
from benchmarks.attention.sglang_parts import Router
from benchmarks.clock import synchronize
from benchmarks.results import add, ran_on

SHAPES = (
    Shape("minimax-h3-5s", 56, 37_296, 128),
    Shape("minimax-h3-10s", 56, 72_576, 128),
    Shape("wan-14b-720p", 40, 75_600, 128),
)
QUICK = Shape("quick", 2, 500, 32)
STEPS, BLOCK = 50, 64

Times = dict[str, list[float]]
"""Milliseconds by what was timed."""


def timed(call: Callable[[], Any], device: str, into: list[float]) -> Any:
    """What a call gives; its milliseconds go into the list."""
    synchronize(device)
    begin = time.perf_counter()
    out = call()
    synchronize(device)
    into.append((time.perf_counter() - begin) * 1e3)
    return out


def small_qkv(shape: Shape) -> Tensors:
    q, k, v = (torch.randn(1, shape.heads, shape.tokens, shape.dim) for _ in range(3))
    return q, k, v


def ours(qkv: Tensors, sparsity: float, times: Times) -> None:
    """Time each step of a request: dense, search or sparse."""
    state = adaspa.AdaSpaState(AdaSpaConfig(sparsity=sparsity, block_size=BLOCK).resolve(STEPS))
    for step in range(STEPS):
        kind = state.begin_step(step)
        timed(lambda: adaspa.attention(*qkv, state), qkv[0].device.type, times[kind])
    state.drop()


def our_router(sparsity: float) -> Router:
    """SubBlock as a policy of ours, where SGLang's is not installed."""

    def route(q: torch.Tensor, k: torch.Tensor) -> BlockIndex:
        search = Search(q, k, torch.empty(0), Geometry(q.shape[2], BLOCK, BLOCK))
        scores = SubBlock(sparsity).scores(search).contiguous()
        return TopK(sparsity, head_adaptive=False).choose(search._replace(block_mass=scores)).index

    def lists(chosen: torch.Tensor | BlockIndex, _: int) -> BlockIndex:
        assert isinstance(chosen, BlockIndex)
        return chosen

    return Router("AdaSpa", lambda tensor: tensor, route, lists)


def find_router(sparsity: float, device: str) -> Router:
    """SubBlock's router: SGLang's where it can run."""
    if device == "cpu":
        return our_router(sparsity)
    try:
        return sglang_parts.load(sparsity)
    except ImportError as error:
        print(f"SubBlock's router is ours: {error}", flush=True)
        return our_router(sparsity)


def theirs(qkv: Tensors, laid_out: tuple[torch.Tensor, torch.Tensor], router: Router, times: Times) -> float:
    """Time SubBlock's choice, and our kernel under it; the density it kept."""
    device = qkv[0].device.type
    chosen = timed(lambda: router.route(*laid_out), device, times["router"])
    index = router.lists(chosen, qkv[0].shape[2])
    timed(lambda: ops.block_sparse_attention(*qkv, index), device, times["kernel"])
    return index.density()


def row(shape: Shape, sparsity: float, times: Times, router: Router, density: float) -> dict[str, Any]:
    """The figures of a shape: over the steps that are not dense, and over all."""
    ms = {name: median(found) for name, found in times.items()}
    counts = {name: len(found) for name, found in times.items()}
    rounds = counts["router"]
    steps = {kind: counts[kind] // rounds for kind in ("dense", "search", "sparse")}
    search = sum(times["search"]) / rounds  # the first and the later ones are of two kinds, of which there is no median
    sparse = steps["sparse"] * ms["sparse"]
    routed = (steps["search"] + steps["sparse"]) * (ms["router"] + ms["kernel"])
    dense = steps["dense"] * ms["dense"]
    return {
        "shape": shape.name,
        "density": round(1 - sparsity, 4),
        "steps": steps,
        "dense_ms": round(ms["dense"], 3),
        "search_ms": round(search, 3),
        "sparse_ms": round(ms["sparse"], 3),
        "router_of": router.name,
        "sub_block_density": round(density, 4),
        "router_ms": round(ms["router"], 3),
        "kernel_ms": round(ms["kernel"], 3),
        "all_dense_s": round(STEPS * ms["dense"] / 1e3, 3),
        "ours_s": round((dense + search + sparse) / 1e3, 3),
        "sub_block_s": round((dense + routed) / 1e3, 3),
        "ratio_without_dense_steps": round((search + sparse) / routed, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the JSON file, written after every row")
    parser.add_argument("--sparsity", type=float, default=0.8, help="share of the blocks that are dropped")
    parser.add_argument("--rounds", type=int, default=3, help="requests of each that are timed, in turns")
    parser.add_argument("--quick", action="store_true", help="a small shape on the CPU, to try the benchmark itself")
    arguments = parser.parse_args()
    result: dict[str, Any] = {**ran_on(quick=arguments.quick), "rows": []}
    for shape in (QUICK,) if arguments.quick else SHAPES:
        qkv = small_qkv(shape) if arguments.quick else random_qkv(shape, torch.bfloat16)
        router = find_router(arguments.sparsity, qkv[0].device.type)
        laid_out = router.layout(qkv[0]), router.layout(qkv[1])
        ours(qkv, arguments.sparsity, defaultdict(list))  # the first calls compile
        density = theirs(qkv, laid_out, router, defaultdict(list))
        times: Times = defaultdict(list)
        for _ in range(arguments.rounds):
            ours(qkv, arguments.sparsity, times)
            theirs(qkv, laid_out, router, times)
        add(result, row(shape, arguments.sparsity, times, router, density), arguments.output)


if __name__ == "__main__":
    main()
