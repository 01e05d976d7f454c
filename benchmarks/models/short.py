"""`python -m benchmarks.models.short --output short.json`: whole steps of short videos of LTX-Video, not compiled.

Milliseconds of one forward of the full-size transformer with random weights, guidance as a batch of two: dense as
diffusers runs it, sparse at density 0.2, and with a self-attention that costs nothing, which is the bound of any. Each
is the median of rounds in turns; the host's milliseconds, until all of a forward is launched, stand beside them.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any
from unittest.mock import patch

import adaspa
import diffusers
import torch
from adaspa.models.processor import AdaSpaProcessor

from benchmarks.clock import synchronize
from benchmarks.models import command_line
from benchmarks.results import add, ran_on, write

GRIDS = ((16, 16, 24), (9, 16, 24), (11, 30, 56))
"""Latent frames, rows and columns: 6,144, 3,456 and 18,480 tokens."""
TEXT = (128, 4096)
"""Tokens and channels of a prompt."""
STEPS = 8
"""Forwards of a request: a dense step, a search, a sparse step, and those that are timed."""
CONFIG = adaspa.AdaSpaConfig(sparsity=0.8, block_size=64, query_block_size=128, steps=STEPS, warmup=1, searches=(1,))
QUICK = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 32, "cross_attention_dim": 64}


def forward(transformer: Any, grid: tuple[int, int, int], device: torch.device) -> Callable[[int], None]:
    """A forward of a step, on inputs as the pipeline gives them."""
    frames, height, width = grid
    torch.manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(2, *shape, device=device, dtype=torch.bfloat16)

    given = {
        "hidden_states": random(frames * height * width, 128),
        "encoder_hidden_states": random(*TEXT),
        "encoder_attention_mask": torch.ones(2, TEXT[0], device=device),
        "num_frames": frames,
        "height": height,
        "width": width,
        "rope_interpolation_scale": (8 / 25, 32, 32),
    }

    timesteps = [torch.full((2,), 1000.0 - 100 * step, device=device) for step in range(STEPS)]

    def run(step: int) -> None:
        with torch.no_grad():
            transformer(**given, timestep=timesteps[step])

    return run


def milliseconds(run: Callable[[int], None], device: torch.device) -> tuple[float, float]:
    """Of a forward in a stream of them, from the fourth on: in all, and of the host."""
    for step in range(3):
        run(step)
    synchronize(device)
    start = time.perf_counter()
    for step in range(3, STEPS):
        run(step)
    launched = time.perf_counter()
    synchronize(device)
    return (time.perf_counter() - start) * 1e3 / (STEPS - 3), (launched - start) * 1e3 / (STEPS - 3)


@contextmanager
def dense(transformer: Any) -> Iterator[None]:
    """The transformer as diffusers has it."""
    adaspa.apply(transformer)
    adaspa.remove(transformer)
    yield


@contextmanager
def sparse(transformer: Any) -> Iterator[None]:
    """Every step from the third on a sparse one."""
    adaspa.apply(transformer, CONFIG).begin(STEPS, branches=1)
    yield


@contextmanager
def free(transformer: Any) -> Iterator[None]:
    """The same with a self-attention that costs nothing."""
    with sparse(transformer), patch.object(AdaSpaProcessor, "attend", lambda _, qkv, *__: qkv[0]):
        yield


def measure(transformer: Any, grid: tuple[int, int, int], device: torch.device, rounds: int) -> dict[str, Any]:
    """The row of a size."""
    run = forward(transformer, grid, device)
    found: dict[str, list[tuple[float, float]]] = {"dense": [], "free": [], "sparse": []}
    for _ in range(rounds):
        for variant, times in zip((dense, free, sparse), found.values(), strict=True):
            with variant(transformer):
                times.append(milliseconds(run, device))
    report = transformer.adaspa.report()
    row: dict[str, Any] = {"tokens": grid[0] * grid[1] * grid[2], "density": round(report["density"], 4)}
    row["kernels"] = [kernel["backend"] for kernel in report["kinds"]["sparse"]["kernels"]]
    for name, times in found.items():
        row[f"{name}_ms"], row[f"{name}_host_ms"] = (round(median(column), 2) for column in zip(*times, strict=True))
    return row | {"sparse_of_dense": round(row["sparse_ms"] / row["dense_ms"], 3)}


def main() -> None:
    parser = command_line.parser("short", __doc__)
    parser.add_argument("--rounds", type=int, default=5, help="times that each is measured, in turns")
    arguments, device = command_line.read(parser)
    with torch.device(device):
        transformer = diffusers.LTXVideoTransformer3DModel(**(QUICK if arguments.quick else {}))
    transformer.to(torch.bfloat16).eval().requires_grad_(False)
    result: dict[str, Any] = {**ran_on(quick=arguments.quick), "diffusers": diffusers.__version__, "rows": []}
    for grid in ((2, 8, 16),) if arguments.quick else GRIDS:
        add(result, measure(transformer, grid, device, arguments.rounds), arguments.output)
    write(result | {"complete": True}, arguments.output)


if __name__ == "__main__":
    main()
