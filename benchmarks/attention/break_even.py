"""`python -m benchmarks.attention.break_even --output break_even.json`: from which length sparse attention pays.

The attention of one layer over the 50 steps of a request, as `adaspa.attention` runs it (searches and selection
included), sparse beside dense, for the heads of each model and lengths up to 8,192 tokens; seconds are the best of
three. Between two lengths the quotient is taken as a power of the length.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

import adaspa
import torch
from adaspa import AdaSpaConfig
from adaspa.self_check import Shape, Tensors, random_qkv

from benchmarks.clock import synchronize
from benchmarks.results import add, ran_on

MODELS = {
    "HunyuanVideo": (24, 128),
    "Wan 14B": (40, 128),
    "Wan 1.3B": (12, 128),
    "CogVideoX 5B": (48, 64),
    "LTX": (32, 64),
}
"""Heads and head_dim."""
LENGTHS = (1024, 1536, 2048, 3072, 4096, 6144, 8192)
STEPS = 50
DENSITIES = (0.5, 0.2)


def configuration(density: float | None) -> AdaSpaConfig:
    """Three dense steps and three searches, with patterns of so many blocks; None for dense."""
    if density is None:
        return AdaSpaConfig.preset("exact")
    return AdaSpaConfig(sparsity=1 - density, warmup=3, searches=(3, 10, 25), query_stride=4)


def seconds(qkv: Tensors, density: float | None) -> float:
    """What the attention of one layer takes in one request."""
    best = math.inf
    for _ in range(4):  # the first compiles
        state = adaspa.AdaSpaState(configuration(density).resolve(STEPS))
        synchronize(qkv[0].device)
        begin = time.perf_counter()
        for step in range(STEPS):
            state.begin_step(step)
            adaspa.attention(*qkv, state)
        synchronize(qkv[0].device)
        best = min(best, time.perf_counter() - begin)
        state.drop()
    return best


def crossing(lengths: list[int], quotients: list[float]) -> int | None:
    """The length from which on dense takes longer than sparse; None where it never does."""
    for place in range(len(lengths) - 1, -1, -1):
        if quotients[place] >= 1:
            continue
        if place == len(lengths) - 1:
            return None
        (a, b), (low, high) = lengths[place : place + 2], quotients[place : place + 2]
        return round(a * (b / a) ** (math.log(1 / low) / math.log(high / low)))
    return lengths[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the JSON file, written after every row")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    args = parser.parse_args()
    result: dict[str, Any] = {**ran_on(), "rows": []}
    for model in args.models:
        heads, dim = MODELS[model]
        quotients: dict[float, list[float]] = {density: [] for density in DENSITIES}
        rows = []
        for tokens in LENGTHS:
            qkv = random_qkv(Shape(model, heads, tokens, dim), torch.bfloat16)
            dense = seconds(qkv, None)
            row: dict[str, Any] = {"tokens": tokens, "dense_ms": round(1000 * dense, 3)}
            for density in DENSITIES:
                sparse = seconds(qkv, density)
                quotients[density].append(dense / sparse)
                row[f"density_{density}_ms"] = round(1000 * sparse, 3)
            rows.append(row)
        even = {str(density): crossing(list(LENGTHS), quotients[density]) for density in DENSITIES}
        row = {"model": model, "heads": heads, "head_dim": dim, "break_even": even, "lengths": rows}
        add(result, row, args.output)


if __name__ == "__main__":
    main()
