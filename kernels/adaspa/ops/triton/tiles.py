# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Parts that the kernels share: tiles in and out of memory, and the online softmax over one block of keys."""

import math

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

LOG2_E = tl.constexpr(math.log2(math.e))
LN_2 = tl.constexpr(math.log(2))


@triton.jit
def load_tile(
    x, b, h, first, limit, stride_b, stride_h, stride,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, PARTIAL: tl.constexpr, USE_TMA: tl.constexpr,
):  # fmt: skip
    """Rows from ``first`` on of one head of ``[B, H, S, D]``, as ``[ROWS, BLOCK_D]``.

    Rows from ``limit`` on, and columns from D on, are zero; without PARTIAL all rows must lie before ``limit``. Given a
    pointer ``x``, or with USE_TMA a tensor descriptor, where the hardware does all that.
    """
    if USE_TMA:
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
    stride_kb, stride_kh, stride_k, stride_vb, stride_vh, stride_v, scale, m_i, l_i, acc,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, PARTIAL: tl.constexpr, PRECISION: tl.constexpr,
    USE_TMA: tl.constexpr,
):  # fmt: skip
    """Advance the online softmax by BLOCK_N keys from ``first`` on: (maximum, l_i, output, this block's mass).

    ``scale`` holds log2(e), so that one multiply-add and an exp2 make a mass, and ``m_i`` is a maximum in base 2. It
    is positive. Without PARTIAL all keys must lie before ``k_tokens``.
    """
    keys = load_tile(k, b, h, first, k_tokens, stride_kb, stride_kh, stride_k, D, BLOCK_D, BLOCK_N, PARTIAL, USE_TMA)
    scores = tl.dot(q, tl.trans(keys), input_precision=PRECISION)
    if PARTIAL:
        scores = tl.where((tl.arange(0, BLOCK_N) < k_tokens - first)[None, :], scores, float("-inf"))
    m_new = tl.maximum(m_i, tl.max(scores, 1) * scale)
    mass = tl.math.exp2(scores * scale - m_new[:, None])
    alpha = tl.math.exp2(m_i - m_new)
    values = load_tile(v, b, h, first, k_tokens, stride_vb, stride_vh, stride_v, D, BLOCK_D, BLOCK_N, PARTIAL, USE_TMA)
    acc = tl.dot(mass.to(values.dtype), values, acc * alpha[:, None], input_precision=PRECISION)
    row_mass = tl.sum(mass, 1)
    return m_new, l_i * alpha + row_mass, acc, row_mass


@triton.jit
def store_rows(
    out, lse, b, h, heads, first, q_tokens, stride_ob, stride_oh, stride_o, m_i, l_i, acc,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Store a normalised output tile and its natural-log LSE, the rows before ``q_tokens`` of them."""
    rows, columns = tl.arange(0, ROWS), tl.arange(0, BLOCK_D)
    inside = rows < q_tokens - first
    pointers = out + tl.cast(b, tl.int64) * stride_ob + tl.cast(h, tl.int64) * stride_oh
    pointers += (tl.cast(first, tl.int64) + rows[:, None]) * stride_o + columns[None, :]
    tl.store(pointers, acc.to(out.dtype.element_ty), mask=inside[:, None] & (columns[None, :] < D))
    # log2(0) of an empty row is minus infinity, as it must be.
    values = (m_i + tl.math.log2(l_i)) * LN_2
    tl.store(lse + (tl.cast(b, tl.int64) * heads + h) * q_tokens + first + rows, values, mask=inside)


@triton.jit
def load_cached_lse(cached_lse, head, first, q_tokens, ROWS: tl.constexpr):
    """Load the cached LSE of a tile's rows in base 2; rows beyond the sequence weigh nothing: exp2(x - inf) = 0."""
    rows = tl.arange(0, ROWS)
    return (
        tl.load(cached_lse + head * q_tokens + first + rows, mask=rows < q_tokens - first, other=float("inf")) * LOG2_E
    )


@triton.jit
def store_block_mass(
    block_mass, head, tile, block, nq, nk, row_mass, TILE_BLOCKS: tl.constexpr, BLOCK_ROWS: tl.constexpr
):
    """Sum the rows of each query block of a tile into its mass of key block ``block``."""
    row = tile * TILE_BLOCKS + tl.arange(0, TILE_BLOCKS)
    summed = tl.sum(tl.reshape(row_mass, [TILE_BLOCKS, BLOCK_ROWS]), 1)
    tl.store(block_mass + (head * nq + row) * nk + block, summed, mask=row < nq)


def head_tile(dim: int) -> int:
    """Return the power of two that holds ``dim``, at least the 16 that a tensor core takes."""
    return max(16, triton.next_power_of_2(dim))


def dot_precision(dtype: torch.dtype) -> str:
    """fp32 keeps its precision, which TF32 would not."""
    return "ieee" if dtype == torch.float32 else "tf32"


def merge_query_blocks(block_mass: torch.Tensor, together: int) -> torch.Tensor:
    """Block mass ``[B, H, nq, nk]`` of query blocks that are ``together`` times as long."""
    if together == 1:
        return block_mass
    return F.pad(block_mass, (0, 0, 0, -block_mass.shape[2] % together)).unflatten(2, (-1, together)).sum(3)


def query_tile(block: int, dim: int) -> int:
    """Query rows of a program that scores blocks: 128, so that a loaded key serves many, half of it for wide heads."""
    return max(block, 64 if dim > 128 else 128)
