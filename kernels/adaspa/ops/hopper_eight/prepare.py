# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Eight-bit q, k and v of a layer: one kernel looks at them, a second one writes them.

Values are stored as the tensor cores want them: of each block of 64 keys the channels are rows, and within 16 keys
those are neighbours that the accumulators of q.k leave side by side in a thread. So softmax goes from one product to
the other without a move.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from adaspa.index import num_blocks
from adaspa.ops.device import unit_stride
from adaspa.ops.reference_eight import rounding
from adaspa.ops.triton.launch import Launcher
from adaspa.ops.triton.tiles import LOG2_E

E4M3 = torch.float8_e4m3fn
LEAST, E4M3_MAX = tl.constexpr(rounding.LEAST), tl.constexpr(rounding.E4M3_MAX)
# Added to a number and taken away again, it leaves the nearest integer.
SHIFT = tl.constexpr(1.5 * 2**23)
PARTS = 64
"""Programs that look at a head."""


class Prepared(NamedTuple):
    """Eight-bit tensors and their scales.

    Args:
        q, k: int8 ``[B, H, S, D]``.
        v: e4m3 ``[B * H, blocks of 64 keys, D, 64]``, the keys in an order of their own.
        q_scales: of each row, with the scale of q.k and log2(e) in it, fp32 ``[B, H, Sq]``.
        k_scales: of each block of 64 keys, fp32 ``[B, H, blocks]``.
        v_scales: of each channel, fp32 ``[B * H, D]``.
        offsets: what the mean of k adds to each row's LSE, fp32 ``[B, H, Sq]``.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    q_scales: torch.Tensor
    k_scales: torch.Tensor
    v_scales: torch.Tensor
    offsets: torch.Tensor


@triton.jit
def _tile(x, b, h, rows, limit, stride_b, stride_h, stride, D: tl.constexpr):
    at = x + tl.cast(b, tl.int64) * stride_b + tl.cast(h, tl.int64) * stride_h
    at += tl.cast(rows, tl.int64)[:, None] * stride + tl.arange(0, D)[None, :]
    return tl.load(at, mask=(rows < limit)[:, None], other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["heads", "q_tokens", "k_tokens", "rows_each"])
def look_kernel(
    q, k, v, found,
    stride_qb, stride_qh, stride_q, stride_kb, stride_kh, stride_k, stride_vb, stride_vh, stride_v,
    heads, q_tokens, k_tokens, rows_each, D: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    """Store, for each channel over some rows of a head: sum, largest and least of k, largest size of q and of v."""
    part, head = tl.program_id(0), tl.program_id(1)
    b, h = head // heads, head % heads
    # Each thread keeps figures of its own until the end.
    total = tl.zeros([64, D], tl.float32)
    top, bottom = total - float("inf"), total + float("inf")
    q_top, v_top = total, total
    for first in range(part * rows_each, part * rows_each + rows_each, 64):
        rows = first + tl.arange(0, 64)
        inside = (rows < k_tokens)[:, None]
        x = _tile(k, b, h, rows, k_tokens, stride_kb, stride_kh, stride_k, D)
        q_top = tl.maximum(q_top, tl.abs(_tile(q, b, h, rows, q_tokens, stride_qb, stride_qh, stride_q, D)))
        if VALUES:
            v_top = tl.maximum(v_top, tl.abs(_tile(v, b, h, rows, k_tokens, stride_vb, stride_vh, stride_v, D)))
        total += x
        top = tl.maximum(top, tl.where(inside, x, float("-inf")))
        bottom = tl.minimum(bottom, tl.where(inside, x, float("inf")))
    at = found + (tl.cast(head, tl.int64) * tl.num_programs(0) + part) * 5 * D + tl.arange(0, D)
    tl.store(at, tl.sum(total, 0))
    tl.store(at + D, tl.max(top, 0))
    tl.store(at + 2 * D, -tl.min(bottom, 0))
    tl.store(at + 3 * D, tl.max(q_top, 0))
    tl.store(at + 4 * D, tl.max(v_top, 0))


@triton.jit
def _saturated(x, LARGEST: tl.constexpr):
    low = tl.maximum(x, -LARGEST, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(low, LARGEST, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _int8(x, scale):
    return ((_saturated(x * (1.0 / scale), 127.0) + SHIFT) - SHIFT).to(tl.int8)


@triton.jit(do_not_specialize=["heads", "q_tokens", "k_tokens", "blocks"])
def prepare_kernel(
    q, k, v, mean, balance, v_scales, q8, k8, v8, q_scales, k_scales, offsets,
    stride_qb, stride_qh, stride_q, stride_kb, stride_kh, stride_k, stride_vb, stride_vh, stride_v,
    heads, q_tokens, k_tokens, blocks, scale, D: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    """Write 64 rows of q and a block of k and v of one head in eight bits, with the scales of q and k."""
    block, head = tl.program_id(0), tl.program_id(1)
    b, h = head // heads, head % heads
    rows, columns = block * 64 + tl.arange(0, 64), tl.arange(0, D)
    center, factors = tl.load(mean + head * D + columns), tl.load(balance + head * D + columns)

    x = _tile(q, b, h, rows, q_tokens, stride_qb, stride_qh, stride_q, D)
    at = tl.cast(head, tl.int64) * q_tokens + rows
    tl.store(offsets + at, tl.sum(x * center[None, :], 1) * scale, mask=rows < q_tokens)
    x *= factors[None, :]
    # int8 has no NaN: a row or block with what is no finite number has a scale that is none.
    row_scale = tl.maximum(tl.max(tl.abs(x), 1), LEAST) / 127.0 + tl.sum(x * 0.0, 1)
    tl.store(q8 + at[:, None] * D + columns[None, :], _int8(x, row_scale[:, None]), mask=(rows < q_tokens)[:, None])
    tl.store(q_scales + at, row_scale * scale * LOG2_E, mask=rows < q_tokens)

    x = (_tile(k, b, h, rows, k_tokens, stride_kb, stride_kh, stride_k, D) - center[None, :]) * (1.0 / factors)[None, :]
    x = tl.where((rows < k_tokens)[:, None], x, 0.0)
    block_scale = tl.maximum(tl.max(tl.max(tl.abs(x), 1), 0), LEAST) / 127.0 + tl.sum(tl.sum(x * 0.0, 1), 0)
    tl.store(k_scales + head * blocks + block, block_scale, mask=block < blocks)
    at = tl.cast(head, tl.int64) * k_tokens + rows
    tl.store(k8 + at[:, None] * D + columns[None, :], _int8(x, block_scale), mask=(rows < k_tokens)[:, None])

    if VALUES:
        # Two neighbours of each eight keys that the accumulators hold become four neighbours of the left operand.
        place = tl.arange(0, 64)
        key = place // 16 * 16 + place % 4 // 2 * 8 + place % 16 // 4 * 2 + place % 2
        x = _tile(v, b, h, block * 64 + key, k_tokens, stride_vb, stride_vh, stride_v, D)
        x = _saturated(x * (1.0 / tl.load(v_scales + head * D + columns))[None, :], E4M3_MAX).to(v8.dtype.element_ty)
        at = (tl.cast(head, tl.int64) * blocks + block) * D + columns
        tl.store(v8 + at[:, None] * 64 + place[None, :], tl.trans(x), mask=(columns < D)[:, None] & (block < blocks))


launch_look = Launcher(look_kernel)
launch_prepare = Launcher(prepare_kernel)


def prepared(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor | None, scale: float) -> Prepared:
    """Write q ``[B, H, Sq, D]`` and k, v ``[B, H, Sk, D]`` in eight bits; no values where there are none."""
    values = v is not None
    tensors = unit_stride(q), unit_stride(k), unit_stride(k if v is None else v)
    strides = [stride for x in tensors for stride in x.stride()[:3]]
    (batch, heads, q_tokens, dim), k_tokens, device = q.shape, k.shape[2], q.device
    blocks, most = num_blocks(k_tokens, 64), num_blocks(max(q_tokens, k_tokens), 64)
    rows_each = 64 * num_blocks(most, PARTS)
    found = torch.empty((batch * heads, num_blocks(64 * most, rows_each), 5, dim), dtype=torch.float32, device=device)
    launch_look(
        (found.shape[1], batch * heads, 1),
        *tensors, found, *strides, heads, q_tokens, k_tokens, rows_each, D=dim, VALUES=values, num_warps=8,
    )  # fmt: skip
    mean, tops = found[:, :, 0].sum(1) / k_tokens, found[:, :, 1:].amax(1)
    k_top = torch.maximum(tops[:, 0] - mean, tops[:, 1] + mean).clamp_min(rounding.LEAST)
    q_top, v_top = tops[:, 2:].clamp_min(rounding.LEAST).unbind(1)
    ready = Prepared(
        torch.empty(q.shape, dtype=torch.int8, device=device),
        torch.empty(k.shape, dtype=torch.int8, device=device),
        torch.empty((batch * heads, blocks if values else 0, dim, 64), dtype=E4M3, device=device),
        torch.empty(q.shape[:3], dtype=torch.float32, device=device),
        torch.empty((batch, heads, blocks), dtype=torch.float32, device=device),
        v_top / rounding.E4M3_MAX,
        torch.empty(q.shape[:3], dtype=torch.float32, device=device),
    )
    launch_prepare(
        (most, batch * heads, 1),
        *tensors, mean, (k_top / q_top).sqrt(), ready.v_scales, ready.q, ready.k, ready.v,
        ready.q_scales, ready.k_scales, ready.offsets,
        *strides, heads, q_tokens, k_tokens, blocks, scale, D=dim, VALUES=values, num_warps=4,
    )  # fmt: skip
    return ready
