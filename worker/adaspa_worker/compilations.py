"""Counts of the kernels that a process compiles, and of those it finds in the caches of Triton and torch.compile."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from triton import knobs


@dataclass
class Compilations:
    """Counts of what was compiled and what was found.

    Args:
        kernels, kernels_cached: of Triton, compiled and found in its cache.
        graphs, graphs_cached: of torch.compile, compiled and found in its cache.
    """

    kernels: int = 0
    kernels_cached: int = 0
    graphs: int = 0
    graphs_cached: int = 0

    def __str__(self) -> str:
        return (
            f"compiled {self.kernels} kernels and {self.graphs} graphs, "
            f"found {self.kernels_cached} and {self.graphs_cached} in the cache"
        )


@contextmanager
def counted() -> Iterator[Compilations]:
    """Count what this process compiles within the block; the counts are there after it."""
    found, before, listener = Compilations(), _graphs(), knobs.compilation.listener

    def listen(*, cache_hit: bool, **compilation: Any) -> None:
        if cache_hit:
            found.kernels_cached += 1
        else:
            found.kernels += 1
        if listener is not None:
            listener(cache_hit=cache_hit, **compilation)

    knobs.compilation.listener = listen
    try:
        yield found
    finally:
        knobs.compilation.listener = listener
        found.graphs, found.graphs_cached = (now - then for now, then in zip(_graphs(), before, strict=True))


def _graphs() -> tuple[int, int]:
    """Graphs that torch.compile compiled so far, and those that it found."""
    counts = torch._dynamo.utils.counters
    inductor = counts["inductor"]
    return (
        inductor["fxgraph_cache_miss"] + inductor["fxgraph_cache_bypass"],
        max(inductor["fxgraph_cache_hit"], counts["aot_autograd"]["autograd_cache_hit"]),
    )
