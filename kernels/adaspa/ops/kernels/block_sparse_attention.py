# ruff: noqa: PLR0917 - a kernel takes its tensors, strides and sizes one by one
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Block-sparse attention: one program per query block walks the list of its key blocks."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from adaspa.ops.kernels.launch import describable, launch_options, runs_on_hopper, tile_source
from adaspa.ops.kernels.tiles import LOG2_E, attend, dot_precision, head_tile, load_tile, store_rows, unit_stride

# Query and key blocks that the kernel for Hopper GPUs takes.
HOPPER_BLOCKS = ((128, 64), (128, 128))


@triton.jit(do_not_specialize=["heads", "q_tokens", "k_tokens", "nq", "nk", "width"])
def block_sparse_kernel(
    q, k, v, ids, counts, out, lse,
    stride_qb, stride_qh, stride_q, stride_kb, stride_kh, stride_k, stride_vb, stride_vh, stride_v,
    stride_ob, stride_oh, stride_o,
    heads, q_tokens, k_tokens, nq, nk, width, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
    DESCRIBED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = row // nq
    b, h, first = (head // heads).to(tl.int32), (head % heads).to(tl.int32), (row % nq).to(tl.int32) * BLOCK_M
    count = tl.load(counts + row)
    full = count == nk
    q_tile = load_tile(q, b, h, first, q_tokens, stride_qb, stride_qh, stride_q, D, BLOCK_D, BLOCK_M, True, DESCRIBED)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    # Lists ascend: only the last block of a row can be the partial one.
    for i in range(0, count - 1):
        block = tl.where(full, i, tl.load(ids + row * width + i, mask=count != nk, other=0).to(tl.int32))
        top, total, acc, _ = attend(
            q_tile, k, v, b, h, block * BLOCK_N, k_tokens,
            stride_kb, stride_kh, stride_k, stride_vb, stride_vh, stride_v, scale, top, total, acc,
            D, BLOCK_D, BLOCK_N, False, PRECISION, DESCRIBED,
        )  # fmt: skip
    if count > 0:
        i = count - 1
        block = tl.where(full, i, tl.load(ids + row * width + i, mask=count != nk, other=0).to(tl.int32))
        top, total, acc, _ = attend(
            q_tile, k, v, b, h, block * BLOCK_N, k_tokens,
            stride_kb, stride_kh, stride_k, stride_vb, stride_vh, stride_v, scale, top, total, acc,
            D, BLOCK_D, BLOCK_N, True, PRECISION, DESCRIBED,
        )  # fmt: skip
        acc = acc / total[:, None]
    store_rows(
        out, lse, b, h, heads, first, q_tokens, stride_ob, stride_oh, stride_o, top, total, acc, D, BLOCK_D, BLOCK_M
    )


@torch.library.custom_op("adaspa::block_sparse_attention", mutates_args=())
def block_sparse_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ids: torch.Tensor,
    counts: torch.Tensor,
    query_block: int,
    key_block: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`adaspa.ops.block_sparse_attention` on checked arguments, the index taken apart."""
    q, k, v = unit_stride(q), unit_stride(k), unit_stride(v)
    if (query_block, key_block) in HOPPER_BLOCKS and runs_on_hopper(q, k, v):
        from adaspa.ops.kernels.hopper.attention import block_sparse_attention as kernel  # noqa: PLC0415 - Gluon

        return kernel(q, k, v, ids, counts, key_block, scale)
    out = torch.empty_like(q)
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    described = describable(q, k, v)
    # Descriptors leave no pointers to hold, which makes room for twice the accumulator.
    hold = 2**14 if described and key_block <= 64 else 2**13
    options = launch_options(query_block, key_block, q, hold)
    launch(q, k, v, ids, counts, out, lse, query_block, key_block, scale, described, options)
    return out, lse


@block_sparse_attention.register_fake
def _(q, k, v, ids, counts, query_block, key_block, scale):
    q = unit_stride(q)
    return torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)


def launch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ids: torch.Tensor,
    counts: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    query_block: int,
    key_block: int,
    scale: float,
    described: bool,
    options: dict[str, int],
) -> None:
    """Start the kernel, loading tiles by descriptor or by pointer, with these warps and stages."""
    batch, heads, tokens, dim = q.shape
    nq, nk = triton.cdiv(tokens, query_block), triton.cdiv(k.shape[2], key_block)
    with torch.cuda.device_of(q):
        block_sparse_kernel[(batch * heads * nq,)](
            tile_source(q, query_block, described), tile_source(k, key_block, described),
            tile_source(v, key_block, described), ids.contiguous(), counts.contiguous(), out, lse,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
            heads, tokens, k.shape[2], nq, nk, ids.shape[-1], scale * LOG2_E,
            D=dim, BLOCK_D=head_tile(dim), BLOCK_M=query_block, BLOCK_N=key_block, PRECISION=dot_precision(q.dtype),
            DESCRIBED=described, **options,
        )  # fmt: skip
