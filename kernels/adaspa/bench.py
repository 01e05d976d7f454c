"""Time the operations on this GPU beside PyTorch's dense attention: `python -m adaspa.bench --output bench.json`.

TFLOP/s are effective: ``4 * S**2 * H * D * density`` of the blocks that are computed. Every timing is the median of
repeated launches with a cold L2 cache. Before anything is timed, the kernels are compared with their references.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from adaspa import ops
from adaspa.config import AdaSpaConfig
from adaspa.index import BlockIndex, num_blocks
from adaspa.ops.attention_with_scores import reference as attention_with_scores_reference
from adaspa.ops.block_scores import reference as block_scores_reference
from adaspa.ops.block_sparse_attention import reference as block_sparse_attention_reference
from adaspa.ops.check import softmax_scale
from adaspa.selection import Geometry, select_blocks

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.5)
TILES = ((64, 64), (128, 64), (128, 128))


class Shape(NamedTuple):
    """The self-attention of one layer, batch 1."""

    name: str
    heads: int
    tokens: int
    dim: int


SHAPES = (
    Shape("hunyuan-video-720p", 24, 115_200, 128),
    Shape("wan-14b-720p", 40, 75_600, 128),
    Shape("wan-1.3b-480p", 12, 32_760, 128),
    Shape("cogvideox-5b", 30, 17_776, 64),
    Shape("short", 24, 4_096, 128),
)


def random_qkv(shape: Shape, dtype: torch.dtype) -> Tensors:
    """Inputs as a projection leaves them: ``[B, S, H, D]`` seen as ``[B, H, S, D]``."""
    generator = torch.Generator("cuda").manual_seed(0)
    size = (1, shape.tokens, shape.heads, shape.dim)
    q, k, v = (torch.randn(size, generator=generator, device="cuda", dtype=dtype).transpose(1, 2) for _ in range(3))
    return q, k, v


def random_weights(shape: Shape, tile: tuple[int, int], pattern: str) -> torch.Tensor:
    """Block weights ``[1, H, nq, nk]`` whose largest are anywhere, or along diagonals and columns as in a video."""
    nq, nk = (num_blocks(shape.tokens, block) for block in tile)
    generator = torch.Generator("cuda").manual_seed(1)
    weights = torch.rand(1, shape.heads, nq, nk, generator=generator, device="cuda")
    if pattern == "diagonal":
        rows, columns = (torch.arange(n, device="cuda") / n for n in (nq, nk))
        weights += 4 * torch.exp(-32 * (rows.unsqueeze(1) - columns).abs())
        weights += 2 * (torch.rand(1, shape.heads, 1, nk, generator=generator, device="cuda") > 0.97)
    return weights


def index_of(weights: torch.Tensor, density: float, shape: Shape, tile: tuple[int, int]) -> BlockIndex:
    """The row-uniform top-k of the weights, for blocks of any two sizes."""
    kept = max(1, round(density * weights.shape[-1]))
    ids = weights.topk(kept, dim=-1).indices.sort(dim=-1).values.to(torch.int16)
    counts = torch.full(weights.shape[:3], kept, dtype=torch.int32, device=weights.device)
    return BlockIndex(ids, counts, *tile, shape.tokens, shape.tokens)


def milliseconds(call: Callable[[], Any]) -> float:
    """The median time of a call, of some 300 ms of repetitions."""
    import triton  # noqa: PLC0415 - the module is imported without it

    return float(triton.testing.do_bench(call, warmup=100, rep=300, return_mode="median"))


def timed(shape: Shape, density: float, call: Callable[[], Any]) -> dict[str, Any]:
    """The time and rate of a call; an out-of-memory or unsupported peer is reported, not hidden."""
    try:
        ms = milliseconds(call)
    except RuntimeError as error:
        return {"error": str(error).splitlines()[0]}
    flop = 4 * shape.tokens**2 * shape.heads * shape.dim * density
    return {"ms": round(ms, 4), "tflops": round(flop / ms / 1e9, 1)}


def dense_rows(shape: Shape, qkv: Tensors) -> list[dict[str, Any]]:
    """PyTorch's dense attention, and our passes over all blocks."""
    q, k, v = qkv
    rows = []
    for name, backend in (("sdpa-cudnn", SDPBackend.CUDNN_ATTENTION), ("sdpa-fa2", SDPBackend.FLASH_ATTENTION)):

        def sdpa(backend: SDPBackend = backend) -> torch.Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v)

        rows.append({"op": name, "density": 1.0} | timed(shape, 1.0, sdpa))
    _, lse = ops.dense_attention(q, k, v)
    rows.append({"op": "dense_attention", "density": 1.0} | timed(shape, 1.0, lambda: ops.dense_attention(q, k, v)))
    for block in (64, 128):
        calls: dict[str, Callable[[], Any]] = {
            "attention_with_scores": lambda block=block: ops.attention_with_scores(q, k, v, lse, block=block),  # type: ignore[misc]
            "block_scores": lambda block=block: ops.block_scores(q, k, lse, block=block),  # type: ignore[misc]
        }
        for name, call in calls.items():
            rows.append({"op": name, "density": 1.0, "block": block} | timed(shape, 1.0, call))
    return rows


def sparse_rows(shape: Shape, qkv: Tensors) -> list[dict[str, Any]]:
    """Block-sparse attention by tile, density and pattern."""
    rows = []
    for tile in TILES:
        for pattern in ("uniform", "diagonal"):
            weights = random_weights(shape, tile, pattern)
            for density in DENSITIES:
                index = index_of(weights, density, shape, tile)

                def sparse(index: BlockIndex = index) -> Any:
                    return ops.block_sparse_attention(*qkv, index)

                row = {"op": "block_sparse_attention", "pattern": pattern, "density": round(index.density(), 4)}
                rows.append(row | {"block": list(tile)} | timed(shape, index.density(), sparse))
    return rows


def selection_row(shape: Shape) -> dict[str, Any]:
    """The paper's selection, from weights to index."""
    weights = random_weights(shape, (64, 64), "diagonal")
    config, geometry = AdaSpaConfig.paper(), Geometry(shape.tokens, 64)
    try:
        return {"op": "select_blocks", "ms": round(milliseconds(lambda: select_blocks(weights, config, geometry)), 4)}
    except torch.OutOfMemoryError as error:
        return {"op": "select_blocks", "error": str(error).splitlines()[0]}


def deviations(dtype: torch.dtype) -> list[dict[str, Any]]:
    """The largest difference of each kernel from its reference, at a shape with partial blocks."""
    rows = []
    for dim in (32, 64, 96, 128, 256):
        shape = Shape("check", 3, 1_000, dim)
        q, k, v = random_qkv(shape, dtype)
        scale = softmax_scale(None, q)
        out, lse = ops.dense_attention(q, k, v)
        pairs: dict[str, tuple[Any, Any]] = {
            "dense_attention": ((out, lse), (F.scaled_dot_product_attention(q, k, v),))
        }
        for block in (64, 128):
            pairs[f"attention_with_scores {block}"] = (
                ops.attention_with_scores(q, k, v, lse, block=block),
                attention_with_scores_reference(q, k, v, lse, block=block, scale=scale),
            )
            pairs[f"block_scores {block}"] = (
                (ops.block_scores(q, k, lse, block=block),),
                (block_scores_reference(q, k, lse, block=block, scale=scale),),
            )
        for tile in TILES:
            index = index_of(random_weights(shape, tile, "uniform"), 0.4, shape, tile)
            pairs[f"block_sparse_attention {tile[0]}x{tile[1]}"] = (
                ops.block_sparse_attention(q, k, v, index),
                block_sparse_attention_reference(q, k, v, index, scale=scale),
            )
        for name, (got, wanted) in pairs.items():
            worst = [float((a.float() - b.float()).abs().max()) for a, b in zip(got, wanted, strict=False)]
            rows.append({"op": name, "dim": dim, "max_abs_difference": [round(value, 6) for value in worst]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--shapes", nargs="+", choices=[shape.name for shape in SHAPES], default=[SHAPES[0].name])
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("a GPU is needed")
    import triton  # noqa: PLC0415 - the module is imported without it

    dtype = getattr(torch, arguments.dtype)
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "dtype": arguments.dtype,
        "deviations": deviations(dtype),
        "shapes": [],
    }
    for shape in (shape for shape in SHAPES if shape.name in arguments.shapes):
        qkv = random_qkv(shape, dtype)
        rows = dense_rows(shape, qkv) + sparse_rows(shape, qkv) + [selection_row(shape)]
        result["shapes"].append({**shape._asdict(), "rows": rows})
        # Written after each shape, so that a run that is cut short leaves what it measured.
        arguments.output.write_text(json.dumps(result, indent=1))
        for row in rows:
            print(shape.name, json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
