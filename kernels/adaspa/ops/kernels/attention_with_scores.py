# ruff: noqa: PLR0917 - a kernel takes its tensors, strides and sizes one by one
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Dense attention with block weights: the row sums of the online softmax, taken to a cached LSE, are the weights."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from adaspa.ops.kernels.launch import describable, launch_options, runs_on_hopper, tile_source
from adaspa.ops.kernels.tiles import (
    LOG2_E,
    attend,
    dot_precision,
    head_tile,
    load_cached_lse,
    load_tile,
    merge_query_blocks,
    query_tile,
    store_rows,
    store_weights,
    unit_stride,
)


@triton.jit
def _attend_and_weigh(
    q, k, v, weights, b, h, head, tile, block, k_tokens, nq, nk,
    stride_kb, stride_kh, stride_k, stride_vb, stride_vh, stride_v, scale, cached, top, total, acc,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK: tl.constexpr, PARTIAL: tl.constexpr,
    PRECISION: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    """The online softmax after one more key block, whose weights are stored."""
    top, total, acc, row_mass = attend(
        q, k, v, b, h, block * BLOCK, k_tokens,
        stride_kb, stride_kh, stride_k, stride_vb, stride_vh, stride_v, scale, top, total, acc,
        D, BLOCK_D, BLOCK, PARTIAL, PRECISION, DESCRIBED,
    )  # fmt: skip
    store_weights(weights, head, tile, block, nq, nk, row_mass * tl.math.exp2(top - cached), BLOCK_M // BLOCK, BLOCK)
    return top, total, acc


@triton.jit(do_not_specialize=["heads", "q_tokens", "k_tokens", "nq", "nk", "tiles"])
def attention_with_scores_kernel(
    q, k, v, cached_lse, out, weights, lse,
    stride_qb, stride_qh, stride_q, stride_kb, stride_kh, stride_k, stride_vb, stride_vh, stride_v,
    stride_ob, stride_oh, stride_o,
    heads, q_tokens, k_tokens, nq, nk, tiles, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
    DESCRIBED: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    head = program // tiles
    tile = (program % tiles).to(tl.int32)
    b, h, first = (head // heads).to(tl.int32), (head % heads).to(tl.int32), tile * BLOCK_M
    q_tile = load_tile(q, b, h, first, q_tokens, stride_qb, stride_qh, stride_q, D, BLOCK_D, BLOCK_M, True, DESCRIBED)
    cached = load_cached_lse(cached_lse, head, first, q_tokens, BLOCK_M)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for i in range(0, nk - 1):
        top, total, acc = _attend_and_weigh(
            q_tile, k, v, weights, b, h, head, tile, i, k_tokens, nq, nk,
            stride_kb, stride_kh, stride_k, stride_vb, stride_vh, stride_v, scale, cached, top, total, acc,
            D, BLOCK_D, BLOCK_M, BLOCK, False, PRECISION, DESCRIBED,
        )  # fmt: skip
    top, total, acc = _attend_and_weigh(
        q_tile, k, v, weights, b, h, head, tile, nk - 1, k_tokens, nq, nk,
        stride_kb, stride_kh, stride_k, stride_vb, stride_vh, stride_v, scale, cached, top, total, acc,
        D, BLOCK_D, BLOCK_M, BLOCK, True, PRECISION, DESCRIBED,
    )  # fmt: skip
    acc = acc / total[:, None]
    store_rows(
        out, lse, b, h, heads, first, q_tokens, stride_ob, stride_oh, stride_o, top, total, acc, D, BLOCK_D, BLOCK_M
    )


@torch.library.custom_op("adaspa::attention_with_scores", mutates_args=())
def attention_with_scores(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lse: torch.Tensor, query_block: int, block: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`adaspa.ops.attention_with_scores` on checked arguments and a given LSE."""
    q, k, v = unit_stride(q), unit_stride(k), unit_stride(v)
    if block % 64 == 0 and runs_on_hopper(q, k, v):
        from adaspa.ops.kernels.hopper.attention import attention_with_scores as kernel  # noqa: PLC0415 - Gluon

        return kernel(q, k, v, lse, query_block, block, scale)
    batch, heads, tokens, dim = q.shape
    nq, nk = triton.cdiv(tokens, block), triton.cdiv(k.shape[2], block)
    out = torch.empty_like(q)
    new_lse = torch.empty(batch, heads, tokens, dtype=torch.float32, device=q.device)
    weights = torch.empty(batch, heads, nq, nk, dtype=torch.float32, device=q.device)
    rows = query_tile(block, dim)
    tiles = triton.cdiv(tokens, rows)
    described = describable(q, k, v)
    with torch.cuda.device_of(q):
        attention_with_scores_kernel[(batch * heads * tiles,)](
            tile_source(q, rows, described), tile_source(k, block, described), tile_source(v, block, described),
            lse.float().contiguous(), out, weights, new_lse,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
            heads, tokens, k.shape[2], nq, nk, tiles, scale * LOG2_E,
            D=dim, BLOCK_D=head_tile(dim), BLOCK_M=rows, BLOCK=block, PRECISION=dot_precision(q.dtype),
            DESCRIBED=described, **launch_options(rows, block, q),
        )  # fmt: skip
    return out, merge_query_blocks(weights, query_block // block), new_lse


@attention_with_scores.register_fake
def _(q, k, v, lse, query_block, block, scale):
    q = unit_stride(q)
    blocks = [-(-q.shape[2] // query_block), -(-k.shape[2] // block)]
    out_lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    return torch.empty_like(q), q.new_empty((*q.shape[:2], *blocks), dtype=torch.float32), out_lse
