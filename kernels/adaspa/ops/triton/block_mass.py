# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Block mass from a cached LSE: query-key products only, no values, no running maximum."""

import torch
import triton
import triton.language as tl

from adaspa.ops.device import can_use_tma, unit_stride
from adaspa.ops.triton.launch import Launcher, launch_options, tile_operand
from adaspa.ops.triton.tiles import (
    LOG2_E,
    dot_precision,
    head_tile,
    load_cached_lse,
    load_tile,
    merge_query_blocks,
    query_tile,
    store_block_mass,
)


@triton.jit
def _score(
    q, k, block_mass, b, h, head, tile, block, k_tokens, nq, nk, stride_kb, stride_kh, stride_k, scale, cached,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
    PARTIAL: tl.constexpr, PRECISION: tl.constexpr, USE_TMA: tl.constexpr,
):  # fmt: skip
    """Store the mass of one key block."""
    first = block * BLOCK_N
    keys = load_tile(k, b, h, first, k_tokens, stride_kb, stride_kh, stride_k, D, BLOCK_D, BLOCK_N, PARTIAL, USE_TMA)
    scores = tl.dot(q, tl.trans(keys), input_precision=PRECISION)
    mass = tl.math.exp2(scores * scale - cached[:, None])
    if PARTIAL:
        mass = tl.where((tl.arange(0, BLOCK_N) < k_tokens - first)[None, :], mass, 0.0)
    store_block_mass(block_mass, head, tile, block, nq, nk, tl.sum(mass, 1), BLOCK_M // BLOCK_ROWS, BLOCK_ROWS)


@triton.jit(do_not_specialize=["heads", "q_tokens", "k_tokens", "nq", "nk", "tiles"])
def block_mass_kernel(
    q, k, cached_lse, block_mass, stride_qb, stride_qh, stride_q, stride_kb, stride_kh, stride_k,
    heads, q_tokens, k_tokens, nq, nk, tiles, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr, USE_TMA: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    head = program // tiles
    tile = (program % tiles).to(tl.int32)
    b, h, first = (head // heads).to(tl.int32), (head % heads).to(tl.int32), tile * BLOCK_M
    q_tile = load_tile(q, b, h, first, q_tokens, stride_qb, stride_qh, stride_q, D, BLOCK_D, BLOCK_M, True, USE_TMA)
    cached = load_cached_lse(cached_lse, head, first, q_tokens, BLOCK_M)
    for i in range(0, nk - 1):
        _score(
            q_tile, k, block_mass, b, h, head, tile, i, k_tokens, nq, nk, stride_kb, stride_kh, stride_k, scale, cached,
            D, BLOCK_D, BLOCK_M, BLOCK_ROWS, BLOCK_N, False, PRECISION, USE_TMA,
        )  # fmt: skip
    _score(
        q_tile, k, block_mass, b, h, head, tile, nk - 1, k_tokens, nq, nk, stride_kb, stride_kh, stride_k, scale,
        cached, D, BLOCK_D, BLOCK_M, BLOCK_ROWS, BLOCK_N, True, PRECISION, USE_TMA,
    )  # fmt: skip


launch_block_mass = Launcher(block_mass_kernel)


def block_mass(
    q: torch.Tensor,
    k: torch.Tensor,
    lse: torch.Tensor,
    query_block: int,
    key_block: int,
    scale: float,
    query_stride: int,
) -> torch.Tensor:
    """`adaspa.ops.block_mass` on checked arguments."""
    # The sampled rows are a view with wider strides: nothing is copied.
    q, k = unit_stride(q)[:, :, ::query_stride], unit_stride(k)
    batch, heads, tokens, dim = q.shape
    block_rows = key_block // query_stride
    nq, nk = triton.cdiv(tokens, block_rows), triton.cdiv(k.shape[2], key_block)
    mass = torch.empty(batch, heads, nq, nk, dtype=torch.float32, device=q.device)
    rows = query_tile(block_rows, dim)
    tiles = triton.cdiv(tokens, rows)
    use_tma = can_use_tma(q, k)
    launch_block_mass(
        (batch * heads * tiles, 1, 1),
        tile_operand(q, rows, use_tma), tile_operand(k, key_block, use_tma),
        lse[:, :, ::query_stride].float().contiguous(), mass, *q.stride()[:3], *k.stride()[:3],
        heads, tokens, k.shape[2], nq, nk, tiles, scale * LOG2_E.value,
        D=dim, BLOCK_D=head_tile(dim), BLOCK_M=rows, BLOCK_ROWS=block_rows, BLOCK_N=key_block,
        PRECISION=dot_precision(q.dtype), USE_TMA=use_tma, **launch_options(rows, key_block, q),
    )  # fmt: skip
    return merge_query_blocks(mass, query_block // key_block)
