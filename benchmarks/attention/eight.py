"""`python -m benchmarks.attention.eight --output eight.json`: attention in eight bits beside full precision.

First the milliseconds of a layer, eight-bit preparation included: as medians over rounds in which all take turns, and
over launches in a row. They differ because each draws as much power as the GPU may: what follows full precision starts
at its low clock. Then the error of both to float64 on the same data, beside FlashAttention-3 in e4m3 if it is
installed: ``error`` is the norm of the difference over that of the right output, over 256 query rows of each head.
LSE-cached scoring is there with all query rows and with every fourth; its error is that of the block mass of the first
1,024 rows.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from adaspa import ops
from adaspa.index import BlockIndex, num_blocks
from adaspa.ops.call import Precision
from adaspa.ops.check import softmax_scale
from adaspa.ops.reference.attention_with_block_mass import sum_blocks
from adaspa.self_check import Shape, Tensors

from benchmarks import markdown
from benchmarks.attention.inputs import SHAPES, demo_index, sharply_local
from benchmarks.results import Result, add, ran_on

PRECISIONS: tuple[Precision, ...] = ("full", "int8_fp8")
ERRORS = (Shape("16k", 4, 16_384, 128), Shape("115k", 2, 115_200, 128))
QUICK = Shape("quick", 2, 600, 64)
TILES = ((128, 64), (128, 128), (64, 64))
DENSITY, ROWS, SCORED_ROWS = 0.2, 256, 1024
STRIDES = (1, 4)
"""Rows from one scored query row to the next."""


def random_qkv(shape: Shape, device: str) -> Tensors:
    """Inputs as a projection leaves them: ``[B, S, H, D]`` seen as ``[B, H, S, D]``."""
    generator = torch.Generator(device).manual_seed(0)
    size, dtype = (1, shape.tokens, shape.heads, shape.dim), torch.bfloat16 if device == "cuda" else torch.float32
    q, k, v = (torch.randn(size, generator=generator, device=device, dtype=dtype).transpose(1, 2) for _ in range(3))
    return q, k, v


def outlier_channels(qkv: Tensors) -> Tensors:
    """Inputs with channels of k that are constant or large, and large ones of q and v, as in trained models."""
    q, k, v = (x.clone(memory_format=torch.preserve_format) for x in qkv)
    k[..., 5] += 12
    k[..., 57] -= 20
    k[..., 40] *= 8
    q[..., 9] *= 8
    v[..., 3] *= 20
    return q, k, v


def telling(qkv: Tensors) -> Tensors:
    """Inputs whose scores differ by some nats and whose values have a mean, so that the output is no mean of noise."""
    q, k, v = qkv
    return q * 3, k, v + torch.linspace(-2, 2, v.shape[-1], device=v.device, dtype=v.dtype)


DATA: dict[str, Callable[[Tensors], Tensors]] = {
    "normal": lambda qkv: qkv,
    "telling": telling,
    "sharply local": sharply_local,
    "outlier channels": outlier_channels,
}


def random_index(shape: Shape, tile: tuple[int, int], device: str) -> BlockIndex:
    """Any blocks, equally many in every row."""
    nq, nk = (num_blocks(shape.tokens, block) for block in tile)
    keep, generator = max(1, round(DENSITY * nk)), torch.Generator(device).manual_seed(1)
    mass = (torch.rand(nq, nk, generator=generator, device=device) for _ in range(shape.heads))
    ids = torch.stack([rows.topk(keep).indices.sort().values.to(torch.int16) for rows in mass])
    counts = torch.full((1, shape.heads, nq), keep, dtype=torch.int32, device=device)
    return BlockIndex(ids[None], counts, *tile, shape.tokens, shape.tokens)


def exact(qkv: Tensors, rows: torch.Tensor, index: BlockIndex | None) -> torch.Tensor:
    """The right output of some query rows."""
    q, k, v = qkv
    scores = q[:, :, rows].double() @ k.double().transpose(-1, -2) * softmax_scale(None, q)
    if index is not None:
        kept = index.to_mask()[:, :, rows // index.query_block].repeat_interleave(index.key_block, -1)
        scores.masked_fill_(~kept[..., : k.shape[2]], -torch.inf)
    return scores.softmax(-1) @ v.double()


def fa3_e4m3(qkv: Tensors) -> Callable[[], torch.Tensor]:
    """FlashAttention-3 in e4m3 with one scale for each head, as it takes them."""
    from fa3_fwd_interface import flash_attn_func  # type: ignore[import-not-found] # noqa: PLC0415 - optional

    scales = [x.abs().amax((2, 3)).float() / 448 for x in qkv]
    eight = [
        (x.float() / scale[:, :, None, None]).to(torch.float8_e4m3fn).transpose(1, 2)
        for x, scale in zip(qkv, scales, strict=True)
    ]
    given = dict(zip(("q_descale", "k_descale", "v_descale"), scales, strict=True))

    def call() -> torch.Tensor:
        out = flash_attn_func(*eight, softmax_scale=softmax_scale(None, qkv[0]), **given)
        first: torch.Tensor = out[0] if isinstance(out, tuple) else out
        return first.transpose(1, 2)

    return call


def calls(qkv: Tensors, index: BlockIndex | None) -> dict[str, Callable[[], torch.Tensor]]:
    """What is compared, by name."""
    q, k, v = qkv
    if index is not None:
        return {p: lambda p=p: ops.block_sparse_attention(q, k, v, index, precision=p)[0] for p in PRECISIONS}  # type: ignore[misc]
    found: dict[str, Callable[[], torch.Tensor]] = {p: partial(ops.attention, q, k, v, precision=p) for p in PRECISIONS}
    if q.is_cuda and find_spec("fa3_fwd_interface") is not None:
        found["fa3 e4m3"] = fa3_e4m3(qkv)
    return found


def scorings(qkv: Tensors, lse: torch.Tensor, stride: int) -> dict[str, Callable[[], torch.Tensor]]:
    """Scoring by a cached LSE, by precision."""
    q, k, _ = qkv
    given: dict[str, Any] = {"query_block": TILES[0][0], "key_block": TILES[0][1], "query_stride": stride}
    return {p: partial(ops.block_mass, q, k, lse, **given, precision=p) for p in PRECISIONS}


def exact_mass(qkv: Tensors, lse: torch.Tensor, stride: int) -> torch.Tensor:
    """The right block mass of the first query rows."""
    q, k, _ = qkv
    rows = slice(0, SCORED_ROWS, stride)
    scores = q[:, :, rows].double() @ k.double().transpose(-1, -2) * softmax_scale(None, q)
    weights = (scores - lse[:, :, rows].double().unsqueeze(-1)).exp()
    return sum_blocks(weights, TILES[0][0] // stride, TILES[0][1])


def errors(shape: Shape, device: str, result: Result, output: Path) -> None:
    """A row for each kind of data, pattern and precision."""
    for data, make in DATA.items():
        qkv = make(random_qkv(shape, device))
        rows = torch.randint(shape.tokens, (ROWS,), generator=torch.Generator().manual_seed(2)).to(device)
        for tile in (None, TILES[0]):
            index = None if tile is None else random_index(shape, tile, device)
            wanted = exact(qkv, rows, index)
            for name, call in calls(qkv, index).items():
                error = float((call()[:, :, rows].double() - wanted).norm() / wanted.norm())
                add(result, {"shape": shape.name, "data": data, "block": tile, "op": name, "error": error}, output)
        lse = ops.dense_attention(*qkv)[1]
        for stride in STRIDES:
            wanted = exact_mass(qkv, lse, stride)
            for name, call in scorings(qkv, lse, stride).items():
                error = float((call()[:, :, : wanted.shape[2]].double() - wanted).norm() / wanted.norm())
                add(result, {"shape": shape.name, "data": data, "scored": stride, "op": name, "error": error}, output)


def milliseconds(call: Callable[[], Any], device: str) -> float:
    begin = time.perf_counter()
    if device == "cpu":
        call()
        return (time.perf_counter() - begin) * 1e3
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop))


def times(shape: Shape, device: str, rounds: int, result: Result, output: Path) -> None:
    """A row for each call and precision: dense, sparse at a density of 0.2, scoring; in turns, and in a row."""
    for data in ("normal", "sharply local"):
        qkv = DATA[data](random_qkv(shape, device))
        lse = ops.dense_attention(*qkv)[1]
        patterns: list[tuple[dict[str, Any], dict[str, Callable[[], torch.Tensor]]]] = [
            ({"block": None, "density": 1.0}, calls(qkv, None)),
            *(({"block": tile, "density": DENSITY}, calls(qkv, random_index(shape, tile, device))) for tile in TILES),
            *_demo(qkv, shape, device),
            *(({"scored": stride}, scorings(qkv, lse, stride)) for stride in STRIDES),
        ]
        for pattern, running in patterns:
            taken: dict[str, list[float]] = {name: [] for name in running}
            for turn in range(rounds + 1):  # the first compiles
                for name, call in running.items():
                    ms = milliseconds(call, device)
                    if turn:
                        taken[name].append(round(ms, 3))
            for name, ms_of_rounds in taken.items():
                row: dict[str, Any] = {"shape": shape.name, "data": data, **pattern}
                # The first two of a row still have the clock of what ran before.
                in_a_row = [milliseconds(running[name], device) for _ in range(rounds + 2)][2:]
                row |= {"op": name, "ms": median(ms_of_rounds), "rounds_ms": ms_of_rounds}
                add(result, row | {"in_a_row_ms": round(median(in_a_row), 3)}, output)


def _demo(qkv: Tensors, shape: Shape, device: str) -> Iterator[tuple[dict[str, Any], dict[str, Callable[[], Any]]]]:
    """The demo model's pattern in the presets' blocks, whose neighbours keep nearly the same."""
    index = demo_index(shape, TILES[-1], device)
    density = round(float(index.counts.float().mean()) / index.num_key_blocks, 3)
    yield {"block": TILES[-1], "density": density, "pattern": "demo"}, calls(qkv, index)


def error_table(rows: list[dict[str, Any]]) -> str:
    """The error of each, in per cent, by data and pattern."""
    return _table([row for row in rows if "error" in row], "error", lambda row: f"{100 * row['error']:.2f} %")


def time_table(rows: list[dict[str, Any]]) -> str:
    """Milliseconds, by data and pattern, with their ratio to full precision."""
    timed = [row for row in rows if "ms" in row]
    full = {_place(row): row for row in timed if row["op"] == PRECISIONS[0]}

    def cell(row: dict[str, Any]) -> str:
        keys = [key for key in ("ms", "in_a_row_ms") if key in row]
        return ", ".join(f"{row[key]:.1f} ({row[key] / full[_place(row)][key]:.2f}x)" for key in keys)

    return _table(timed, "ms in turns, in a row", cell)


def routes_table(routes: list[dict[str, Any]]) -> str:
    """Milliseconds of forms of the kernel, by the order of the launches."""
    orders = {
        "in_a_row": "in a row",
        "in_turns": "in turns with bf16",
        "skewed": "skewed, in a row",
        "dense": "dense, in a row",
    }
    lines = markdown.head(["form", *(f"{order}, ms" for order in orders.values())])
    for route in routes:
        lines.append(markdown.line([route["form"], *(f"{route[o]['ms']:.1f}" if o in route else "" for o in orders)]))
    return "\n".join(lines)


def _place(row: dict[str, Any]) -> tuple[str, str, str]:
    if "scored" in row:
        return row["shape"], row["data"], "scoring" if row["scored"] == 1 else f"scoring, every {row['scored']}th row"
    if not row["block"]:
        return row["shape"], row["data"], "dense"
    rows, keys = row["block"]
    pattern = f", the demo model's pattern, density {row['density']:.2f}" if "pattern" in row else ", density 0.2"
    return row["shape"], row["data"], f"{rows} x {keys}{pattern}"


def _table(rows: list[dict[str, Any]], what: str, cell: Callable[[dict[str, Any]], str]) -> str:
    ops_of_rows = list(dict.fromkeys(row["op"] for row in rows))
    cells = {(_place(row), row["op"]): cell(row) for row in rows}
    lines = markdown.head(["shape", "data", "attention", *(f"{op}, {what}" for op in ops_of_rows)])
    for place in dict.fromkeys(_place(row) for row in rows):
        lines.append(markdown.line([*place, *(cells.get((place, op), "") for op in ops_of_rows)]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention.eight", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the JSON file, written after every row")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a small shape on the CPU, to try the benchmark itself")
    arguments = parser.parse_args()
    device = "cpu" if arguments.quick else "cuda"
    result = ran_on(quick=arguments.quick) | {"rows": []}
    if device == "cuda":
        import triton  # noqa: PLC0415 - the module is imported without it

        result["triton"] = triton.__version__
    times(QUICK if arguments.quick else SHAPES[0], device, arguments.rounds, result, arguments.output)
    for shape in (QUICK,) if arguments.quick else ERRORS:
        errors(shape, device, result, arguments.output)


if __name__ == "__main__":
    main()
