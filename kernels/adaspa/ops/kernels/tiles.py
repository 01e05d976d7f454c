# ruff: noqa: PLR0917 - a kernel takes its tensors, strides and sizes one by one
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""What the kernels share: tiles in and out of memory, and one step of the online softmax."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

LOG2_E = 1.4426950408889634


@triton.jit
def load_tile(
    x, b, h, first, limit, stride_b, stride_h, stride,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, PARTIAL: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    """Rows from ``first`` on of one head of ``[B, H, S, D]``, as ``[ROWS, BLOCK_D]``.

    Rows from ``limit`` on, and columns from D on, are zero; without PARTIAL all rows must lie before ``limit``. Given a
    pointer ``x``, or with DESCRIBED a tensor descriptor, where the hardware does all that.
    """
    if DESCRIBED:
        tile = x.load([b, h, first, 0]).reshape(ROWS, BLOCK_D)
    else:
        rows, columns = tl.arange(0, ROWS), tl.arange(0, BLOCK_D)
        base = x + tl.cast(b, tl.int64) * stride_b + tl.cast(h, tl.int64) * stride_h + tl.cast(first, tl.int64) * stride
        pointers = base + rows[:, None] * stride + columns[None, :]
        if PARTIAL:
            tile = tl.load(pointers, mask=(rows[:, None] < limit - first) & (columns[None, :] < D), other=0.0)
        elif D == BLOCK_D:
            tile = tl.load(pointers)
        else:
            tile = tl.load(pointers, mask=columns[None, :] < D, other=0.0)
    return tile


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
