"""`python -m benchmarks.attention --output bench.json`: our operations and their peers, in one run on this GPU.

TFLOP/s are effective: ``4 * S**2 * H * D * density`` of the blocks that are computed. Every timing is the median over
rounds in which all rows take turns, each of repeated launches with a cold L2 cache, behind as many that are not timed,
so that the clock is the row's own and not that of the row before. The seconds of the first launch, compilation
included, stand beside it. For short sequences there are the microseconds that a call takes the host, and those that it
takes in a stream of eager calls, for which host and GPU work side by side. Peers that are not installed have no rows;
the file names them.

Several runs at once with ``--rounds 0``, each of some shapes, leave the compiled kernels in the caches of this one.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from adaspa import ops
from adaspa.index import BlockIndex
from adaspa.selection import POLICIES, Geometry, Search
from adaspa.self_check import Shape, Tensors, deviations, random_block_mass, random_index, random_qkv

from benchmarks.attention import peers
from benchmarks.attention.inputs import (
    LOCAL,
    PATTERNS,
    SHAPES,
    demo_index,
    imbalance,
    shared_with_neighbour,
    sharply_local,
    with_outlier_rows,
)
from benchmarks.attention.tune import launches
from benchmarks.clock import cold_launches
from benchmarks.results import ran_on

DENSITIES = (0.2, 0.05, 0.1, 0.3, 0.5)
SHORT = 4096
"""Tokens up to which the host's time is measured: beyond, the GPU takes longer than any host."""
ROUND_MS = 40
"""Milliseconds of launches of a row in a round, and as long again before them, untimed. A longer one is launched once
each."""
# What is to be timed, how much of the dense work it does (None: no attention), and how its launch is made.
Job = tuple[dict[str, Any], float | None, Callable[[], Callable[[], Any]]]


def jobs(shape: Shape, qkv: Tensors, full: bool) -> Iterator[Job]:
    """The rows of one shape, the most telling first; the whole set of densities and peers if ``full``."""
    for name in (*peers.DENSE, peers.FA4):
        yield {"op": name, "density": 1.0}, 1.0, lambda name=name: peers.dense(name, qkv)  # type: ignore[misc]
    for pattern in PATTERNS:
        for density in DENSITIES if full else DENSITIES[:1]:
            yield sparse_job(qkv, random_index(density, shape, (128, 64), pattern), pattern)
    yield sparse_job(qkv, demo_index(shape, (128, 64)), "demo model")
    for pattern in PATTERNS:
        yield sparse_job(qkv, random_index(0.2, shape, (64, 64), pattern), pattern)
    yield sparse_job(qkv, demo_index(shape, (64, 64)), "demo model")
    yield from search_jobs(shape, qkv)
    if full:
        yield peer_job("flex-attention", peers.flex, qkv, random_index(0.2, shape, (128, 128), "uniform"), "uniform")
        yield peer_job("fastvideo-vsa", peers.fastvideo, qkv, random_index(0.2, shape, (64, 64), "uniform"), "uniform")
        for blocks in peers.FA4_BLOCKS:
            for pattern in PATTERNS:
                yield peer_job(peers.FA4, peers.fa4, qkv, random_index(0.2, shape, blocks, pattern), pattern)
        yield peer_job(peers.FA4, peers.fa4, qkv, demo_index(shape, (64, 64)), "demo model")


def data_jobs(shape: Shape, qkv: Tensors) -> Iterator[Job]:
    """Dense and sparse attention on data of little and of much range, in both half precisions.

    The kinds of data are neighbours, so that each comes as often behind another.
    """
    index = random_index(0.2, shape, (128, 64), "uniform")
    kinds = (("", qkv), (", sharply local", sharply_local(qkv)), (", outlier rows", with_outlier_rows(qkv)))
    for dtype in (torch.bfloat16, torch.float16):
        given: list[tuple[str, Tensors]] = []
        for data, (q, k, v) in kinds:
            given.append((f", {str(dtype).removeprefix('torch.')}{data}", (q.to(dtype), k.to(dtype), v.to(dtype))))
        for name, tensors in given:
            row, density, make = sparse_job(tensors, index, "uniform")
            yield row | {"op": row["op"] + name}, density, make
        for name, tensors in given:
            row = {"op": f"dense_attention{name}", "density": 1.0}
            yield row, 1.0, lambda tensors=tensors: lambda: ops.dense_attention(*tensors)  # type: ignore[misc]


def sparse_job(qkv: Tensors, index: BlockIndex, pattern: str) -> Job:
    kept = round(index.density(), 4)
    tile = [index.query_block, index.key_block]
    row = {"op": "block_sparse_attention", "pattern": pattern, "block": tile, "density": kept}
    row |= {"imbalance": imbalance(index), "shared": shared_with_neighbour(index)}
    return row, kept, lambda: lambda: ops.block_sparse_attention(*qkv, index)


def peer_job(name: str, peer: Callable[..., Any], qkv: Tensors, index: BlockIndex, pattern: str) -> Job:
    kept = round(index.density(), 4)
    row: dict[str, Any] = {"op": name, "pattern": pattern, "block": [index.query_block, index.key_block]}
    row |= {"density": kept, "imbalance": imbalance(index)}

    def make() -> Callable[[], Any]:
        call = peer(qkv, index)
        out = call()
        theirs = out[0] if isinstance(out, tuple) else out
        ours, _ = ops.block_sparse_attention(*qkv, index)
        row["max_abs_difference"] = round(float((theirs - ours).abs().max()), 6)
        return call

    return row, kept, make


def search_jobs(shape: Shape, qkv: Tensors) -> Iterator[Job]:
    """Our dense pass with block weights, the scoring passes, and the selection."""
    q, k, v = qkv
    _, lse = ops.dense_attention(q, k, v)
    block: dict[str, Any] = {"block": [128, 64]}
    yield {"op": "dense_attention", "density": 1.0}, 1.0, lambda: lambda: ops.dense_attention(q, k, v)
    yield (
        {"op": "attention_with_block_mass", "density": 1.0} | block,
        1.0,
        lambda: lambda: ops.attention_with_block_mass(q, k, v, lse, query_block=128),
    )
    for every in (1, 4):
        row: dict[str, Any] = {"op": f"block_mass, every {every}"} | block
        yield row, None, lambda every=every: lambda: ops.block_mass(q, k, lse, query_block=128, query_stride=every)  # type: ignore[misc]
    mass, geometry = random_block_mass(shape, (128, 64), "skewed"), Geometry(shape.tokens, 128, 64)
    for name, policy in POLICIES.items():
        row = {"op": f"select_blocks, {name}"} | block
        yield row, None, lambda policy=policy: partial(policy().select, Search(q, k, mass, geometry))  # type: ignore[misc]


def started(shape: Shape, job: Job) -> tuple[dict[str, Any], Callable[[], Any] | None]:
    """The row of a job after its first launch, and the launch; without one where the row says what went wrong.

    Raises:
        ModuleNotFoundError: when the peer is not installed.
    """
    row, _, make = job
    row["shape"] = shape.name
    try:
        start = time.perf_counter()
        call = make()
        call()
        torch.cuda.synchronize()
    except ModuleNotFoundError:
        raise
    except Exception as error:  # a peer may fail in any way, or run out of memory; the row says how
        return row | {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}, None
    row |= {"first_s": round(time.perf_counter() - start, 3)}
    return row | (eager_us(call) if shape.tokens <= SHORT else {}), call


def eager_us(call: Callable[[], Any], calls: int = 100) -> dict[str, float]:
    """Microseconds of the host, and of host and GPU side by side, for a call in a stream; medians of five streams."""
    host, eager = [], []
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        host.append(time.perf_counter() - start)
        torch.cuda.synchronize()
        eager.append(time.perf_counter() - start)
    return {f"{name}_us": round(median(found) / calls * 1e6, 1) for name, found in (("host", host), ("eager", eager))}


def timed(row: dict[str, Any], shape: Shape, density: float | None, call: Callable[[], Any]) -> None:
    """Add one more round to the row: its figures are the medians over all rounds so far."""
    ms = row["ms"] if "ms" in row else cold_launches(call, 1)
    launches = max(1, int(ROUND_MS / ms))
    cold_launches(call, launches)
    row.setdefault("rounds_ms", []).append(round(cold_launches(call, launches), 4))
    row["ms"] = round(median(row["rounds_ms"]), 4)
    if density is not None:
        row["tflops"] = round(4 * shape.tokens**2 * shape.heads * shape.dim * density / row["ms"] / 1e9, 1)


def all_jobs(arguments: argparse.Namespace, shape: Shape, qkv: Tensors) -> Iterator[Job]:
    """The jobs of a shape."""
    if arguments.tune:
        for row, call in launches(shape, qkv, 0.2):
            yield row, 0.2, lambda call=call: call  # type: ignore[misc]
    elif shape is LOCAL:
        yield from data_jobs(shape, qkv)
    else:
        yield from jobs(shape, qkv, full=shape is SHAPES[0])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the JSON file, written after every row")
    parser.add_argument("--minutes", type=float, default=4.0, help="time nothing after this time")
    parser.add_argument("--rounds", type=int, default=5, help="times that every row is timed, in turns")
    shapes = (*SHAPES, LOCAL)
    names = [shape.name for shape in shapes]
    parser.add_argument("--shapes", nargs="+", choices=names, help="all, or for --tune the first")
    parser.add_argument("--tune", action="store_true", help="try launch parameters of block_sparse_attention instead")
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("a GPU is needed")
    import triton  # noqa: PLC0415 - the module is imported without it

    arguments.shapes = arguments.shapes or (names[:1] if arguments.tune else names)
    end, dtype = time.monotonic() + 60 * arguments.minutes, getattr(torch, arguments.dtype)
    result: dict[str, Any] = ran_on()
    result |= {"triton": triton.__version__, "dtype": arguments.dtype, "complete": False, "rows": []}
    if not arguments.tune:
        result["deviations"] = deviations(dtype)
    missing: set[str] = set()
    for shape in (shape for shape in shapes if shape.name in arguments.shapes):
        qkv, running = random_qkv(shape, dtype), []
        for job in all_jobs(arguments, shape, qkv):
            try:
                row, call = started(shape, job)
            except ModuleNotFoundError:
                missing.add(job[0]["op"])
                continue
            result["rows"].append(row)
            if call is not None:
                running.append((row, job[1], call))
        # In turns, because a GPU that has just run hot is slower: each round gives every row the same chances. Forth
        # and back, because the clock stays low for some 100 ms behind a row that runs hot.
        for turn in range(arguments.rounds):
            for row, density, call in running if turn % 2 == 0 else reversed(running):
                if time.monotonic() < end:
                    timed(row, shape, density, call)
            arguments.output.write_text(json.dumps(result, indent=1))
        for row, _, _ in running:
            print(json.dumps(row), flush=True)
        del qkv, running, job, call
        torch.cuda.empty_cache()
    result |= {"complete": time.monotonic() < end, "not_installed": sorted(missing)}
    arguments.output.write_text(json.dumps(result, indent=1))
    if arguments.tune:
        best = sorted((row for row in result["rows"] if "ms" in row), key=lambda row: row["ms"])
        print("fastest:", *(json.dumps(row) for row in best[:5]), sep="\n")


if __name__ == "__main__":
    main()
