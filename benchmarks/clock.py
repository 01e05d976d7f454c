"""Time on a device that works by itself."""

from collections.abc import Callable
from functools import cache
from statistics import median
from typing import Any

import torch


def synchronize(device: torch.device | str) -> None:
    """Wait until a GPU has done what it was given; a CPU has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def cold_launches(call: Callable[[], Any], launches: int) -> float:
    """Launch a call on the GPU so many times, each with a cold L2 cache; the median in milliseconds."""
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(launches)]
    for start, end in events:
        _more_than_the_cache().zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return median(start.elapsed_time(end) for start, end in events)


@cache
def _more_than_the_cache() -> torch.Tensor:
    return torch.empty(2**28, dtype=torch.int8, device="cuda")
