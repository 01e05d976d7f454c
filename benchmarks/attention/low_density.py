"""`python -m benchmarks.attention.low_density --output low_density.json`: what short lists cost beside dense attention.

The share of the ideal, which is the time of our dense attention in the same run times the density. Each row runs in
slots behind the dense one or before it, long enough for the clock to settle: a slot begins with launches that are not
timed. The power limit lowers the clock, and by how much depends on what runs. So the clock of each slot stands beside
its time, and the share that both would have at one clock.
"""

import argparse
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from adaspa import ops
from adaspa.index import BlockIndex
from adaspa.self_check import Tensors, random_index, random_qkv

from benchmarks import markdown
from benchmarks.attention.inputs import PATTERNS, SHAPES, demo_index, imbalance
from benchmarks.results import ran_on, write

SETTLE_MS, TIMED_MS = 110, 230
DENSITIES = (0.05, 0.1, 0.2)
BLOCK = (128, 64)
Row = dict[str, Any]


class Clock(threading.Thread):
    """Reads the clock of the processors every few milliseconds, which needs ``nvidia-ml-py``."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._seen: list[tuple[float, int]] = []

    def run(self) -> None:
        while True:
            mhz = torch.cuda.clock_rate()
            self._seen.append((time.perf_counter(), mhz))
            time.sleep(0.005)

    def mean(self, begin: float, end: float) -> float:
        """Mean clock in MHz between two times of `time.perf_counter`."""
        return mean(mhz for at, mhz in self._seen if begin <= at <= end)


def slot(call: Callable[[], Any], ms: float, clock: Clock) -> tuple[float, float]:
    """Milliseconds of a launch that takes about ``ms``, and the clock in MHz, once the clock has settled."""
    for _ in range(max(1, round(SETTLE_MS / ms))):
        call()
    torch.cuda.synchronize()
    launches = max(1, round(TIMED_MS / ms))
    begin = time.perf_counter()
    for _ in range(launches):
        call()
    torch.cuda.synchronize()
    end = time.perf_counter()
    return 1000 * (end - begin) / launches, clock.mean(begin, end)


def shares(row: Row, dense: Row) -> dict[str, float]:
    """Percent of the ideal: by the time, and if both had run at one clock."""
    (ms, clocks), (ideal, ideal_clocks) = (
        (median(ms for ms, _ in timed["slots"]), median(ms * mhz for ms, mhz in timed["slots"]))
        for timed in (row, dense)
    )
    return {
        "share": round(100 * ideal * row["density"] / ms, 1),
        "share_at_one_clock": round(100 * ideal_clocks * row["density"] / clocks, 1),
    }


def table(result: dict[str, Any]) -> str:
    """The rows as a Markdown table."""
    head = ["pattern", "density", "imbalance", "ms", "MHz", "share of ideal", "at one clock"]
    lines = []
    for row in result["rows"]:
        ms, mhz = (median(values) for values in zip(*row["slots"], strict=True))
        cells = [row["pattern"], f"{row['density']:.3g}", row["imbalance"], f"{ms:.4g}", f"{mhz:.0f}"]
        lines.append([*cells, *(f"{row[name]} %" if name in row else "" for name in ("share", "share_at_one_clock"))])
    return markdown.table(head, lines)


def indices() -> list[tuple[str, BlockIndex]]:
    shape = SHAPES[0]
    found = [(name, random_index(density, shape, BLOCK, name)) for name in PATTERNS for density in DENSITIES]
    return [*found, ("demo model", demo_index(shape, BLOCK))]


def call_of(qkv: Tensors, index: BlockIndex) -> Callable[[], Any]:
    return lambda: ops.block_sparse_attention(*qkv, index)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the JSON file, written after every round")
    parser.add_argument("--rounds", type=int, default=5, help="times that every row is timed, forth and back")
    arguments = parser.parse_args()
    qkv, clock = random_qkv(SHAPES[0], torch.bfloat16), Clock()
    clock.start()
    dense: Row = {"pattern": "dense", "density": 1.0, "imbalance": 1.0, "slots": []}
    calls: list[tuple[Row, Callable[[], Any]]] = []
    for pattern, index in indices():
        row = {"pattern": pattern, "density": round(index.density(), 4), "imbalance": imbalance(index), "slots": []}
        calls.append((row, call_of(qkv, index)))
    result = {**ran_on(), "shape": SHAPES[0]._asdict(), "block": BLOCK, "rows": [dense, *(row for row, _ in calls)]}
    for turn in range(arguments.rounds):
        step = 1 if turn % 2 == 0 else -1
        for sparse in calls[::step]:
            for timed, launch in ((dense, lambda: ops.dense_attention(*qkv)), sparse)[::step]:
                ms, mhz = slot(launch, timed["slots"][-1][0] if timed["slots"] else 240 * timed["density"], clock)
                timed["slots"].append((round(ms, 4), round(mhz)))
        for sparse_row, _ in calls:
            sparse_row.update(shares(sparse_row, dense))
        write(result, arguments.output)
    print(table(result))


if __name__ == "__main__":
    main()
