"""Check of the kernels on this GPU, and how fast they are: `python -m adaspa.self_check` prints both as JSON."""

import argparse
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from adaspa import ops
from adaspa.index import BlockIndex, num_blocks
from adaspa.ops.check import softmax_scale
from adaspa.ops.reference import kernels as reference

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Shape(NamedTuple):
    """Self-attention of one layer, batch 1."""

    name: str
    heads: int
    tokens: int
    dim: int


TILES = ((64, 64), (128, 64), (128, 128))
TIMED = Shape("16k", 24, 16_384, 128)
DENSITY = 0.2


def deviations(dtype: torch.dtype) -> list[dict[str, Any]]:
    """Measure the largest difference of each kernel from its reference, at a shape with partial blocks."""
    rows = []
    for dim in (64, 128):
        shape = Shape("check", 3, 1_000, dim)
        q, k, v = random_qkv(shape, dtype)
        scale = softmax_scale(None, q)
        out, lse = ops.dense_attention(q, k, v)
        pairs: dict[str, tuple[Any, Any]] = {
            "dense_attention": ((out, lse), (F.scaled_dot_product_attention(q, k, v),))
        }
        for block in (64, 128):
            pairs[f"attention_with_block_mass {block}"] = (
                ops.attention_with_block_mass(q, k, v, lse, key_block=block),
                reference.attention_with_block_mass(q, k, v, lse, block, block, scale),
            )
            pairs[f"block_mass {block}"] = (
                (ops.block_mass(q, k, lse, key_block=block),),
                (reference.block_mass(q, k, lse, block, block, scale, 1),),
            )
        for tile in TILES:
            index = random_index(0.4, shape, tile, "skewed")
            pairs[f"block_sparse_attention {tile[0]}x{tile[1]}"] = (
                ops.block_sparse_attention(q, k, v, index),
                reference.block_sparse_attention(q, k, v, index, scale),
            )
        for name, (got, wanted) in pairs.items():
            worst = [float((a.float() - b.float()).abs().max()) for a, b in zip(got, wanted, strict=False)]
            rows.append({"op": name, "dim": dim, "max_abs_difference": [round(value, 6) for value in worst]})
    return rows


def timings(dtype: torch.dtype) -> list[dict[str, Any]]:
    """Milliseconds of our dense and sparse attention and of PyTorch's, and TFLOP/s of the blocks computed."""
    import triton  # noqa: PLC0415 - the module is imported without it

    q, k, v = random_qkv(TIMED, dtype)
    index = random_index(DENSITY, TIMED, (128, 64), "uniform")
    calls: dict[str, tuple[float, Callable[[], Any]]] = {
        "scaled_dot_product_attention (PyTorch)": (1.0, lambda: F.scaled_dot_product_attention(q, k, v)),
        "dense_attention": (1.0, lambda: ops.dense_attention(q, k, v)),
        "block_sparse_attention 128x64": (index.density(), lambda: ops.block_sparse_attention(q, k, v, index)),
    }
    rows = []
    for name, (density, call) in calls.items():
        ms = float(triton.testing.do_bench(call, return_mode="median"))
        tflops = 4 * TIMED.tokens**2 * TIMED.heads * TIMED.dim * density / ms / 1e9
        rows.append({"op": name, "density": round(density, 3), "ms": round(ms, 3), "tflops": round(tflops, 1)})
    return rows


def random_qkv(shape: Shape, dtype: torch.dtype) -> Tensors:
    """Inputs as a projection leaves them: ``[B, S, H, D]`` seen as ``[B, H, S, D]``."""
    generator = torch.Generator("cuda").manual_seed(0)
    size = (1, shape.tokens, shape.heads, shape.dim)
    q, k, v = (torch.randn(size, generator=generator, device="cuda", dtype=dtype).transpose(1, 2) for _ in range(3))
    return q, k, v


def random_block_mass(shape: Shape, tile: tuple[int, int], pattern: str) -> torch.Tensor:
    """Block mass ``[1, H, nq, nk]`` whose largest are anywhere, or along diagonals and columns as in a video."""
    nq, nk = (num_blocks(shape.tokens, block) for block in tile)
    generator = torch.Generator("cuda").manual_seed(1)
    mass = torch.rand(1, shape.heads, nq, nk, generator=generator, device="cuda")
    if pattern == "skewed":
        rows, columns = (torch.arange(n, device="cuda") / n for n in (nq, nk))
        mass += 4 * torch.exp(-32 * (rows.unsqueeze(1) - columns).abs())
        mass += 2 * (torch.rand(1, shape.heads, 1, nk, generator=generator, device="cuda") > 0.97)
    return mass


def random_index(density: float, shape: Shape, tile: tuple[int, int], pattern: str) -> BlockIndex:
    """Draw the largest blocks of each row: as many in every row if uniform, else from a quarter to 7/4 of the mean.

    The heads of a skewed index differ most and its rows half as much, as under head-adaptive and retained-mass
    selection.
    """
    mass = random_block_mass(shape, tile, pattern)
    nk = mass.shape[-1]
    factors = torch.ones(mass.shape[:3], device="cuda")
    if pattern == "skewed":
        factors += torch.linspace(-0.5, 0.5, shape.heads, device="cuda").unsqueeze(-1)
        factors += torch.linspace(-0.25, 0.25, mass.shape[2], device="cuda")
    counts = (factors * density * nk).round().int().clamp(1, nk)
    width = int(counts.max())
    ranked = mass.topk(width, dim=-1).indices
    listed = torch.arange(width, device="cuda") < counts.unsqueeze(-1)
    ids = torch.where(listed, ranked, nk).sort(dim=-1).values.clamp_(max=nk - 1).to(torch.int16)
    return BlockIndex(ids, counts, *tile, shape.tokens, shape.tokens)


def main() -> None:
    """Check and time, and print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m adaspa.self_check", description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16")
    dtype = getattr(torch, parser.parse_args().dtype)
    if not torch.cuda.is_available():
        parser.error("a GPU is needed")
    result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "shape": TIMED._asdict()}
    print(json.dumps(result | {"deviations": deviations(dtype), "rows": timings(dtype)}))


if __name__ == "__main__":
    main()
