# ruff: noqa: PLR0917 - a kernel takes its tensors, strides and sizes one by one
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""What the kernels share: tiles in and out of memory, and one step of the online softmax."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

LOG2_E = 1.4426950408889634


@triton.jit
def load_rows(base, rows, limit, stride, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """A ``[rows, BLOCK_D]`` tile; rows from ``limit`` on and columns from D on are zero."""
    columns = tl.arange(0, BLOCK_D)
    pointers = base + rows[:, None] * stride + columns[None, :]
    if D == BLOCK_D:
        return tl.load(pointers, mask=rows[:, None] < limit, other=0.0)
    return tl.load(pointers, mask=(rows[:, None] < limit) & (columns[None, :] < D), other=0.0)


@triton.jit
def load_block(base, rows, limit, stride, D: tl.constexpr, BLOCK_D: tl.constexpr, PARTIAL: tl.constexpr):
    """`load_rows` without the test of the rows where the block is whole."""
    if PARTIAL:
        return load_rows(base, rows, limit, stride, D, BLOCK_D)
    columns = tl.arange(0, BLOCK_D)
    pointers = base + rows[:, None] * stride + columns[None, :]
    if D == BLOCK_D:
        return tl.load(pointers)
    return tl.load(pointers, mask=columns[None, :] < D, other=0.0)


@triton.jit
def softmax_step(scores, top, scale):
    """Masses of a tile of raw scores against the running maximum: (mass, new maximum, factor of what came before).

    ``scale`` holds log2(e), so that one multiply-add and an exp2 make a mass. It is positive.
    """
    new_top = tl.maximum(top, tl.max(scores, 1) * scale)
    return tl.math.exp2(scores * scale - new_top[:, None]), new_top, tl.math.exp2(top - new_top)


def head_tile(dim: int) -> int:
    """The power of two that holds ``dim``, at least the 16 that a tensor core takes."""
    return max(16, triton.next_power_of_2(dim))


def unit_stride(x: torch.Tensor) -> torch.Tensor:
    """``x`` itself if its head_dim is contiguous, as from every projection, else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()


def dot_precision(dtype: torch.dtype) -> str:
    """fp32 keeps its precision, which TF32 would not."""
    return "ieee" if dtype == torch.float32 else "tf32"
