# ruff: noqa: PLR0917 - a kernel takes its tensors, strides and sizes one by one
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""What the kernels share: tiles in and out of memory, and the online softmax over one block of keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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
def attend(
    q, k, v, b, h, first, k_tokens,
    stride_kb, stride_kh, stride_k, stride_vb, stride_vh, stride_v, scale, top, total, acc,
    D: tl.constexpr, BLOCK_D: tl.constexpr, KEYS: tl.constexpr, PARTIAL: tl.constexpr, PRECISION: tl.constexpr,
    DESCRIBED: tl.constexpr,
):  # fmt: skip
    """The online softmax after the block of KEYS keys from ``first`` on: (maximum, total, output, this block's mass).

    ``scale`` holds log2(e), so that one multiply-add and an exp2 make a mass, and ``top`` is a maximum in base 2. It
    is positive. Without PARTIAL all keys must lie before ``k_tokens``.
    """
    keys = load_tile(k, b, h, first, k_tokens, stride_kb, stride_kh, stride_k, D, BLOCK_D, KEYS, PARTIAL, DESCRIBED)
    scores = tl.dot(q, tl.trans(keys), input_precision=PRECISION)
    if PARTIAL:
        scores = tl.where((tl.arange(0, KEYS) < k_tokens - first)[None, :], scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, 1) * scale)
    mass = tl.math.exp2(scores * scale - new_top[:, None])
    before = tl.math.exp2(top - new_top)
    values = load_tile(v, b, h, first, k_tokens, stride_vb, stride_vh, stride_v, D, BLOCK_D, KEYS, PARTIAL, DESCRIBED)
    acc = tl.dot(mass.to(values.dtype), values, acc * before[:, None], input_precision=PRECISION)
    row_mass = tl.sum(mass, 1)
    return new_top, total * before + row_mass, acc, row_mass


@triton.jit
def store_rows(
    out, lse, b, h, heads, first, q_tokens, stride_ob, stride_oh, stride_o, top, total, acc,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Store a normalised output tile and its natural-log LSE, the rows before ``q_tokens`` of them."""
    rows, columns = tl.arange(0, ROWS), tl.arange(0, BLOCK_D)
    inside = rows < q_tokens - first
    pointers = out + tl.cast(b, tl.int64) * stride_ob + tl.cast(h, tl.int64) * stride_oh
    pointers += (tl.cast(first, tl.int64) + rows[:, None]) * stride_o + columns[None, :]
    tl.store(pointers, acc.to(out.dtype.element_ty), mask=inside[:, None] & (columns[None, :] < D))
    # log2(0) of an empty row is minus infinity, as it must be.
    values = (top + tl.math.log2(total)) * 0.6931471805599453
    tl.store(lse + (tl.cast(b, tl.int64) * heads + h) * q_tokens + first + rows, values, mask=inside)


@triton.jit
def load_cached_lse(cached_lse, head, first, q_tokens, ROWS: tl.constexpr):
    """The cached LSE of a tile's rows in base 2; rows beyond the sequence weigh nothing: exp2(x - inf) = 0."""
    rows = tl.arange(0, ROWS)
    return (
        tl.load(cached_lse + head * q_tokens + first + rows, mask=rows < q_tokens - first, other=float("inf"))
        * 1.4426950408889634
    )


@triton.jit
def store_weights(weights, head, tile, block, nq, nk, row_weights, TILE_BLOCKS: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    """Sum the rows of each query block of a tile into its weight of key block ``block``."""
    row = tile * TILE_BLOCKS + tl.arange(0, TILE_BLOCKS)
    summed = tl.sum(tl.reshape(row_weights, [TILE_BLOCKS, BLOCK_ROWS]), 1)
    tl.store(weights + (head * nq + row) * nk + block, summed, mask=row < nq)


def head_tile(dim: int) -> int:
    """The power of two that holds ``dim``, at least the 16 that a tensor core takes."""
    return max(16, triton.next_power_of_2(dim))


def unit_stride(x: torch.Tensor) -> torch.Tensor:
    """``x`` itself if its head_dim is contiguous, as from every projection, else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()


def dot_precision(dtype: torch.dtype) -> str:
    """fp32 keeps its precision, which TF32 would not."""
    return "ieee" if dtype == torch.float32 else "tf32"


def merge_query_blocks(weights: torch.Tensor, together: int) -> torch.Tensor:
    """Block weights ``[B, H, nq, nk]`` of query blocks that are ``together`` times as long."""
    if together == 1:
        return weights
    return F.pad(weights, (0, 0, 0, -weights.shape[2] % together)).unflatten(2, (-1, together)).sum(3)


def query_tile(block: int, dim: int) -> int:
    """Query rows of a program that scores blocks: 128, so that a loaded key serves many, half of it for wide heads."""
    return max(block, 64 if dim > 128 else 128)
