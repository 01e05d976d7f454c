"""`torchrun --nproc-per-node 2 -m benchmarks.models.overlap --output overlap.json`: an exchange behind attention.

Seconds of dense and of sparse steps whose heads are attended with in one to four parts (`adaspa.parallel.overlap`), the
numbers of parts in turns, with NCCL on a stream of the usual and of high priority, and there on fewer SMs. Models and
reckoning are those of `benchmarks.models.parallel`.
"""

from collections.abc import Iterator
from dataclasses import replace
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from adaspa.parallel import overlap
from adaspa.parallel.ranks import Ranks

from benchmarks.models.parallel import Machine, Row, begin, measure
from benchmarks.models.parallel_bench import WALK, Bench
from benchmarks.models.parallel_parts import Part

IN_PARTS = (1, 2, 3, 4)
ROUNDS = 4
"""The first compiles and is not counted."""
STEPS = ROUNDS * len(IN_PARTS)
CONFIG = replace(WALK, steps=2 * STEPS + 3, warmup=STEPS + 1, searches=(STEPS + 1,))
"""Dense steps; one that leaves an LSE, the search, and a step behind it; sparse steps."""
FEW_SMS = 8


def streams(device: torch.device) -> dict[str, Any]:
    """Groups of all processes by what their streams are."""
    found = {"usual": dist.group.WORLD}
    if device.type == "cuda":
        options = dist.ProcessGroupNCCL.Options(is_high_priority_stream=True)
        found["high priority"] = dist.new_group(pg_options=options)
        options.config.max_ctas = FEW_SMS
        found["high priority, few SMs"] = dist.new_group(pg_options=options)
    return found


def rows(part: Part, machine: Machine) -> Iterator[Row]:
    """All rows of a model; its processes yield them together."""
    bench = Bench(part, machine.device)
    machine.gather(machine.world)
    for stream, group in streams(machine.device).items():
        with patch("adaspa.parallelize.Ranks", lambda _, uneven=False, group=group: Ranks(group, uneven=uneven)):
            for row in in_parts(bench):
                yield {"model": bench.model.name, "gpus": machine.world, "stream": stream, **row}


def in_parts(bench: Bench) -> Iterator[Row]:
    """A row for each kind of step and number of parts."""
    handle = bench.together("ulysses", CONFIG)
    handle.begin(CONFIG.steps)
    for kind, first in (("dense", 0), ("sparse", STEPS + 3)):
        seconds: dict[int, list[float]] = {parts: [] for parts in IN_PARTS}
        for number in range(STEPS):
            parts = IN_PARTS[number % len(IN_PARTS)]
            with patch.object(overlap, "PARTS", parts):
                seconds[parts].append(bench.step(first + number)[0])
        for parts in IN_PARTS:
            yield {"step": kind, "parts": parts, "seconds": round(median(seconds[parts][1:]), 4)}
        for skipped in range(3 if kind == "dense" else 0):
            bench.step(STEPS + skipped)
    bench.apart()


if __name__ == "__main__":
    measure(
        *begin("benchmarks.models.overlap", __doc__, ["hunyuan-video-13b-720p-129f", "minimax-h3-33b-768p-10s"]), rows
    )
