# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Block-sparse attention: one program per query block walks the list of its key blocks."""

from typing import Any

import torch
import triton
import triton.language as tl

from adaspa.index import BlockIndex
from adaspa.ops.device import can_use_tma, unit_stride
from adaspa.ops.triton.launch import Launch, Launcher, launch_options, tile_operand
from adaspa.ops.triton.tiles import LOG2_E, attend, dot_precision, head_tile, load_tile, store_rows


@triton.jit(do_not_specialize=["heads", "q_tokens", "k_tokens", "nq", "nk", "width"])
def block_sparse_kernel(
    q, k, v, ids, counts, out, lse,
    stride_qb, stride_qh, stride_q, stride_kb, stride_kh, stride_k, stride_vb, stride_vh, stride_v,
    stride_ob, stride_oh, stride_o,
    heads, q_tokens, k_tokens, nq, nk, width, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
    USE_TMA: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = row // nq
    b, h, first = (head // heads).to(tl.int32), (head % heads).to(tl.int32), (row % nq).to(tl.int32) * BLOCK_M
    count = tl.load(counts + row)
    full = count == nk
    q_tile = load_tile(q, b, h, first, q_tokens, stride_qb, stride_qh, stride_q, D, BLOCK_D, BLOCK_M, True, USE_TMA)
    m_i = tl.full([BLOCK_M], float("-inf"), tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    # Lists ascend: only the last block of a row can be the partial one.
    for i in range(0, count - 1):
        block = tl.where(full, i, tl.load(ids + row * width + i, mask=count != nk, other=0).to(tl.int32))
        m_i, l_i, acc, _ = attend(
            q_tile, k, v, b, h, block * BLOCK_N, k_tokens,
            stride_kb, stride_kh, stride_k, stride_vb, stride_vh, stride_v, scale, m_i, l_i, acc,
            D, BLOCK_D, BLOCK_N, False, PRECISION, USE_TMA,
        )  # fmt: skip
    if count > 0:
        i = count - 1
        block = tl.where(full, i, tl.load(ids + row * width + i, mask=count != nk, other=0).to(tl.int32))
        m_i, l_i, acc, _ = attend(
            q_tile, k, v, b, h, block * BLOCK_N, k_tokens,
            stride_kb, stride_kh, stride_k, stride_vb, stride_vh, stride_v, scale, m_i, l_i, acc,
            D, BLOCK_D, BLOCK_N, True, PRECISION, USE_TMA,
        )  # fmt: skip
        acc = acc / l_i[:, None]
    store_rows(
        out, lse, b, h, heads, first, q_tokens, stride_ob, stride_oh, stride_o, m_i, l_i, acc, D, BLOCK_D, BLOCK_M
    )


launch_block_sparse = Launcher(block_sparse_kernel)


def block_sparse_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, index: BlockIndex, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`adaspa.ops.block_sparse_attention` on checked arguments."""
    q, k, v = unit_stride(q), unit_stride(k), unit_stride(v)
    out = torch.empty_like(q)
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    use_tma = can_use_tma(q, k, v)
    # Descriptors leave no pointers to hold, which makes room for twice the accumulator.
    hold = 2**14 if use_tma and index.key_block <= 64 else 2**13
    options = launch_options(index.query_block, index.key_block, q, hold)
    launch(q, k, v, index, out, lse, scale, use_tma, options)
    return out, lse


def launch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    index: BlockIndex,
    out: torch.Tensor,
    lse: torch.Tensor,
    scale: float,
    use_tma: bool,
    options: dict[str, int],
) -> None:
    """Start the kernel, loading tiles by descriptor or by pointer, with these warps and stages."""
    query_block, key_block = index.query_block, index.key_block
    tiles = [tile_operand(x, rows, use_tma) for x, rows in ((q, query_block), (k, key_block), (v, key_block))]
    data = (*tiles, index.ids.contiguous(), index.counts.contiguous(), out, lse)
    strides, width = (q.stride(), k.stride(), v.stride(), out.stride()), index.ids.shape[3]

    def new_launch() -> Launch:
        _, heads, tokens, dim = q.shape
        steps = [step for stride in strides for step in stride[:3]]
        sizes = (heads, tokens, k.shape[2], index.num_query_blocks, index.num_key_blocks, width)
        constants: dict[str, Any] = {"D": dim, "BLOCK_D": head_tile(dim), "BLOCK_M": query_block, "BLOCK_N": key_block}
        constants |= {"PRECISION": dot_precision(q.dtype), "USE_TMA": use_tma} | options
        return Launch((index.counts.numel(), 1, 1), (*steps, *sizes, scale * LOG2_E.value), constants)

    kind = (q.dtype, q.shape, k.shape, *strides, query_block, key_block, width, scale, use_tma, *options.values())
    launch_block_sparse.as_before(kind, data, new_launch)
