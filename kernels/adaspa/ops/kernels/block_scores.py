# ruff: noqa: PLR0917 - a kernel takes its tensors, strides and sizes one by one
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Block weights from a cached LSE: query-key products only, no values, no running maximum."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from adaspa.ops.kernels.launch import describable, launch_options, runs_on_hopper, tile_source
from adaspa.ops.kernels.tiles import (
    LOG2_E,
    dot_precision,
    head_tile,
    load_cached_lse,
    load_tile,
    merge_query_blocks,
    query_tile,
    store_weights,
    unit_stride,
)


@triton.jit
def _score(
    q, k, weights, b, h, head, tile, block, k_tokens, nq, nk, stride_kb, stride_kh, stride_k, scale, cached,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK: tl.constexpr,
    PARTIAL: tl.constexpr, PRECISION: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    """Store the weights of one key block."""
    first = block * BLOCK
    keys = load_tile(k, b, h, first, k_tokens, stride_kb, stride_kh, stride_k, D, BLOCK_D, BLOCK, PARTIAL, DESCRIBED)
    scores = tl.dot(q, tl.trans(keys), input_precision=PRECISION)
    mass = tl.math.exp2(scores * scale - cached[:, None])
    if PARTIAL:
        mass = tl.where((tl.arange(0, BLOCK) < k_tokens - first)[None, :], mass, 0.0)
    store_weights(weights, head, tile, block, nq, nk, tl.sum(mass, 1), BLOCK_M // BLOCK_ROWS, BLOCK_ROWS)


@triton.jit(do_not_specialize=["heads", "q_tokens", "k_tokens", "nq", "nk", "tiles"])
def block_scores_kernel(
    q, k, cached_lse, weights, stride_qb, stride_qh, stride_q, stride_kb, stride_kh, stride_k,
    heads, q_tokens, k_tokens, nq, nk, tiles, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK: tl.constexpr,
    PRECISION: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    head = program // tiles
    tile = (program % tiles).to(tl.int32)
    b, h, first = (head // heads).to(tl.int32), (head % heads).to(tl.int32), tile * BLOCK_M
    q_tile = load_tile(q, b, h, first, q_tokens, stride_qb, stride_qh, stride_q, D, BLOCK_D, BLOCK_M, True, DESCRIBED)
    cached = load_cached_lse(cached_lse, head, first, q_tokens, BLOCK_M)
    for i in range(0, nk - 1):
        _score(
            q_tile, k, weights, b, h, head, tile, i, k_tokens, nq, nk, stride_kb, stride_kh, stride_k, scale, cached,
            D, BLOCK_D, BLOCK_M, BLOCK_ROWS, BLOCK, False, PRECISION, DESCRIBED,
        )  # fmt: skip
    _score(
        q_tile, k, weights, b, h, head, tile, nk - 1, k_tokens, nq, nk, stride_kb, stride_kh, stride_k, scale, cached,
        D, BLOCK_D, BLOCK_M, BLOCK_ROWS, BLOCK, True, PRECISION, DESCRIBED,
    )  # fmt: skip


@torch.library.custom_op("adaspa::block_scores", mutates_args=())
def block_scores(
    q: torch.Tensor, k: torch.Tensor, lse: torch.Tensor, query_block: int, block: int, scale: float, every: int
) -> torch.Tensor:
    """`adaspa.ops.block_scores` on checked arguments."""
    # The sampled rows are a view with wider strides: nothing is copied.
    q, k = unit_stride(q)[:, :, ::every], unit_stride(k)
    if block % 64 == 0 and runs_on_hopper(q, k):
        from adaspa.ops.kernels.hopper.block_scores import block_scores as kernel  # noqa: PLC0415 - Gluon

        return kernel(q, k, lse[:, :, ::every], query_block // every, block, scale)
    batch, heads, tokens, dim = q.shape
    block_rows = block // every
    nq, nk = triton.cdiv(tokens, block_rows), triton.cdiv(k.shape[2], block)
    weights = torch.empty(batch, heads, nq, nk, dtype=torch.float32, device=q.device)
    rows = query_tile(block_rows, dim)
    tiles = triton.cdiv(tokens, rows)
    described = describable(q, k)
    with torch.cuda.device_of(q):
        block_scores_kernel[(batch * heads * tiles,)](
            tile_source(q, rows, described), tile_source(k, block, described),
            lse[:, :, ::every].float().contiguous(), weights, *q.stride()[:3], *k.stride()[:3],
            heads, tokens, k.shape[2], nq, nk, tiles, scale * LOG2_E,
            D=dim, BLOCK_D=head_tile(dim), BLOCK_M=rows, BLOCK_ROWS=block_rows, BLOCK=block,
            PRECISION=dot_precision(q.dtype), DESCRIBED=described, **launch_options(rows, block, q),
        )  # fmt: skip
    return merge_query_blocks(weights, query_block // block)


@block_scores.register_fake
def _(q, k, lse, query_block, block, scale, every):
    blocks = [-(-q.shape[2] // query_block), -(-k.shape[2] // block)]
    return q.new_empty((*q.shape[:2], *blocks), dtype=torch.float32)
