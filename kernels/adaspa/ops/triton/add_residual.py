# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Addition of a residual: the output read once and written once, the residual of a block kept for its queries."""

import torch
import triton
import triton.language as tl

from adaspa.ops.triton.launch import Launcher
from adaspa.ops.triton.tiles import head_tile

MOST_ROWS = 64  # of a program


@triton.jit(do_not_specialize=["heads", "tokens"])
def add_residual_kernel(
    out, residual, weight, stride_b, stride_h, stride_s, stride_d, added_b, added_h, added_s, added_d, heads, tokens,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    batch, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    first, channel = tl.program_id(0).to(tl.int64) * ROWS, tl.arange(0, WIDTH)
    row, there = first + tl.arange(0, ROWS), channel < D
    source = residual + batch * added_b + head * added_h + first // BLOCK * added_s + channel * added_d
    added = weight * tl.load(source, mask=there, other=0.0).to(tl.float32)
    place = out + batch * stride_b + head * stride_h + row[:, None] * stride_s + channel[None, :] * stride_d
    inside = (row < tokens)[:, None] & there[None, :]
    x = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, (x + added[None, :]).to(out.dtype.element_ty), mask=inside)


launch_add_residual = Launcher(add_residual_kernel)


def add_residual(out: torch.Tensor, residual: torch.Tensor, block: int, weight: float) -> None:
    """`adaspa.ops.add_residual` on checked arguments."""
    batch, heads, tokens, dim = out.shape
    rows = min(block, MOST_ROWS)
    launch_add_residual(
        (triton.cdiv(tokens, rows), batch * heads, 1),
        out, residual, weight, *out.stride(), *residual.stride(), heads, tokens,
        D=dim, WIDTH=head_tile(dim), ROWS=rows, BLOCK=block, num_warps=4,
    )  # fmt: skip
