# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Dense attention with block mass: the row sums of the online softmax, taken to a cached LSE, are the mass."""

import torch
import triton
import triton.language as tl

from adaspa.ops.device import can_use_tma, unit_stride
from adaspa.ops.triton.launch import Launcher, launch_options, tile_operand
from adaspa.ops.triton.tiles import (
    LOG2_E,
    attend,
    dot_precision,
    head_tile,
    load_cached_lse,
    load_tile,
    merge_query_blocks,
    query_tile,
    store_block_mass,
    store_rows,
)


@triton.jit
def _attend_and_weigh(
    q, k, v, block_mass, b, h, head, tile, block, k_tokens, nq, nk,
    stride_kb, stride_kh, stride_k, stride_vb, stride_vh, stride_v, scale, cached, m_i, l_i, acc,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PARTIAL: tl.constexpr,
    PRECISION: tl.constexpr, USE_TMA: tl.constexpr,
):  # fmt: skip
    """Advance the online softmax by one more key block, whose mass is stored."""
    m_i, l_i, acc, row_mass = attend(
        q, k, v, b, h, block * BLOCK_N, k_tokens,
        stride_kb, stride_kh, stride_k, stride_vb, stride_vh, stride_v, scale, m_i, l_i, acc,
        D, BLOCK_D, BLOCK_N, PARTIAL, PRECISION, USE_TMA,
    )  # fmt: skip
    store_block_mass(
        block_mass, head, tile, block, nq, nk, row_mass * tl.math.exp2(m_i - cached), BLOCK_M // BLOCK_N, BLOCK_N
    )
    return m_i, l_i, acc


@triton.jit(do_not_specialize=["heads", "q_tokens", "k_tokens", "nq", "nk", "tiles"])
def attention_with_block_mass_kernel(
    q, k, v, cached_lse, out, block_mass, lse,
    stride_qb, stride_qh, stride_q, stride_kb, stride_kh, stride_k, stride_vb, stride_vh, stride_v,
    stride_ob, stride_oh, stride_o,
    heads, q_tokens, k_tokens, nq, nk, tiles, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
    USE_TMA: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    head = program // tiles
    tile = (program % tiles).to(tl.int32)
    b, h, first = (head // heads).to(tl.int32), (head % heads).to(tl.int32), tile * BLOCK_M
    q_tile = load_tile(q, b, h, first, q_tokens, stride_qb, stride_qh, stride_q, D, BLOCK_D, BLOCK_M, True, USE_TMA)
    cached = load_cached_lse(cached_lse, head, first, q_tokens, BLOCK_M)
    m_i = tl.full([BLOCK_M], float("-inf"), tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for i in range(0, nk - 1):
        m_i, l_i, acc = _attend_and_weigh(
            q_tile, k, v, block_mass, b, h, head, tile, i, k_tokens, nq, nk,
            stride_kb, stride_kh, stride_k, stride_vb, stride_vh, stride_v, scale, cached, m_i, l_i, acc,
            D, BLOCK_D, BLOCK_M, BLOCK_N, False, PRECISION, USE_TMA,
        )  # fmt: skip
    m_i, l_i, acc = _attend_and_weigh(
        q_tile, k, v, block_mass, b, h, head, tile, nk - 1, k_tokens, nq, nk,
        stride_kb, stride_kh, stride_k, stride_vb, stride_vh, stride_v, scale, cached, m_i, l_i, acc,
        D, BLOCK_D, BLOCK_M, BLOCK_N, True, PRECISION, USE_TMA,
    )  # fmt: skip
    acc = acc / l_i[:, None]
    store_rows(
        out, lse, b, h, heads, first, q_tokens, stride_ob, stride_oh, stride_o, m_i, l_i, acc, D, BLOCK_D, BLOCK_M
    )


launch_attention_with_block_mass = Launcher(attention_with_block_mass_kernel)


def attention_with_block_mass(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lse: torch.Tensor, query_block: int, key_block: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`adaspa.ops.attention_with_block_mass` on checked arguments and a given LSE."""
    q, k, v = unit_stride(q), unit_stride(k), unit_stride(v)
    batch, heads, tokens, dim = q.shape
    nq, nk = triton.cdiv(tokens, key_block), triton.cdiv(k.shape[2], key_block)
    out = torch.empty_like(q)
    new_lse = torch.empty(batch, heads, tokens, dtype=torch.float32, device=q.device)
    mass = torch.empty(batch, heads, nq, nk, dtype=torch.float32, device=q.device)
    rows = query_tile(key_block, dim)
    tiles = triton.cdiv(tokens, rows)
    use_tma = can_use_tma(q, k, v)
    launch_attention_with_block_mass(
        (batch * heads * tiles, 1, 1),
        tile_operand(q, rows, use_tma), tile_operand(k, key_block, use_tma), tile_operand(v, key_block, use_tma),
        lse.float().contiguous(), out, mass, new_lse,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
        heads, tokens, k.shape[2], nq, nk, tiles, scale * LOG2_E.value,
        D=dim, BLOCK_D=head_tile(dim), BLOCK_M=rows, BLOCK_N=key_block, PRECISION=dot_precision(q.dtype),
        USE_TMA=use_tma, **launch_options(rows, key_block, q),
    )  # fmt: skip
    return out, merge_query_blocks(mass, query_block // key_block), new_lse
