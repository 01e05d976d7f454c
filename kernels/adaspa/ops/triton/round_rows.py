# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Activation and rounding of rows to e4m3: read once, written once, a row kept in registers in between."""

import math

import torch
import triton
import triton.language as tl

from adaspa.ops import e4m3
from adaspa.ops.triton.launch import Launcher

MOST = tl.constexpr(e4m3.MOST)
LEAST_SCALE = tl.constexpr(e4m3.LEAST_SCALE)
GELU = tl.constexpr(-2 * math.sqrt(2 / math.pi) / math.log(2))  # 1 + tanh(u) is 2 / (1 + exp(-2u))
SIGMOID = tl.constexpr(-1 / math.log(2))
WARP_VALUES = 2048  # of a row, for each warp


@triton.jit
def gelu_tanh(x):
    return x / (1 + tl.exp2(x * GELU * (1 + 0.044715 * x * x)))


@triton.jit
def silu(x):
    return x / (1 + tl.exp2(x * SIGMOID))


@triton.jit
def round_rows_kernel(
    x, before, out, scales, stride_x, stride_before,
    BEFORE: tl.constexpr, WIDTH: tl.constexpr, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < BEFORE + WIDTH
    active = inside & (column >= BEFORE)
    source = x + row * stride_x + column - BEFORE
    y = tl.load(source, mask=active, other=0.0).to(tl.float32)
    if ACTIVATION == "swiglu":
        y *= silu(tl.load(source + WIDTH, mask=active, other=0.0).to(tl.float32))
    elif ACTIVATION == "gelu_tanh":
        y = gelu_tanh(y)
    if BEFORE:
        first = tl.load(before + row * stride_before + column, mask=column < BEFORE, other=0.0)
        y = tl.where(active, y, first.to(tl.float32))
    scale = tl.maximum(tl.max(tl.abs(y)) / MOST, LEAST_SCALE)
    rounded = (y * (1 / scale)).to(out.dtype.element_ty)  # saturates
    tl.store(out + row * (BEFORE + WIDTH) + column, rounded, mask=inside)
    tl.store(scales + row, scale)


launch_round_rows = Launcher(round_rows_kernel)


def round_rows(x: torch.Tensor, before: torch.Tensor, activation: str) -> tuple[torch.Tensor, torch.Tensor]:
    """`adaspa.ops.round_rows` on checked arguments."""
    x, before = (each if each.stride(1) == 1 else each.contiguous() for each in (x, before))
    rows, width = x.shape[0], before.shape[1] + x.shape[1] // (2 if activation == "swiglu" else 1)
    out = torch.empty(rows, width, dtype=e4m3.E4M3, device=x.device)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(width)
    launch_round_rows(
        (rows, 1, 1), x, before, out, scales, x.stride(0), before.stride(0),
        BEFORE=before.shape[1], WIDTH=width - before.shape[1], ACTIVATION=activation, BLOCK=block,
        num_warps=min(max(block // WARP_VALUES, 4), 16),
    )  # fmt: skip
    return out, scales
