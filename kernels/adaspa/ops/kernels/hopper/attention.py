# ruff: noqa: PLR0915, PLR0917, RUF059, SIM102 - partitions take the same bundles of arguments; an `if` of constants is its own
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Attention on Hopper GPUs: block-sparse, dense, and dense with block weights.

A program attends 128 query rows to a list of key blocks, 128 keys at a time: blocks of 64 that lie apart in memory come
to lie side by side in shared memory, so that the tensor cores see wide tiles whatever the pattern is. The list is
walked from its end, where the one block may be that is partial or has no neighbour; all others need no mask.

In bf16, whose exponents reach as far as those of fp32, a row takes all its exponents to the maximum of its first tile:
a running maximum costs a tenth of the time, and none is needed unless later scores exceed the first ones by more than
`HEADROOM` allows. Where they do, the program walks its list once more, with a running maximum. The two warpgroups take
turns at the tensor cores, or both would come to do their exponentials at the same time.
"""

from __future__ import annotations

import torch
import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from adaspa.ops.kernels.hopper.tiles import (
    KEYS,
    STRIP,
    load_blocks,
    load_queries,
    merge_strips,
    panels,
    start_scores,
    store_weights,
)
from adaspa.ops.kernels.tiles import LOG2_E

STAGES = {64: 4, 128: 3}  # tiles of keys and of values in shared memory, by head_dim
QUERY_TILE = 128  # query rows of a program, half of them in each warpgroup
REGISTERS = {"num_warps": 4, "maxnreg": 168}  # of 384 threads: 240 for those that compute, 24 for those that load
# Sums of exponentials stay below 2**HEADROOM, so that fp32 holds them times any value, and the largest one of the first
# tile is 2**-START, so that most of the room is above it: scores may rise by 84 within a row.
HEADROOM, START = gl.constexpr(100.0), gl.constexpr(22.0)


@gluon.jit
def _pair(ids, i, count, whole, SPAN: gl.constexpr):
    """The two blocks of 64 keys that make the ``i``-th tile of a list; the last of an odd list comes twice."""
    if SPAN == 2:
        block = gl.where(whole, i, gl.load(ids + i, mask=(i < count) & ~whole, other=0).to(gl.int32))
        first, second = 2 * block, 2 * block + 1
    else:
        last = gl.minimum(2 * i + 1, gl.maximum(count - 1, 0))
        first = gl.where(whole, 2 * i, gl.load(ids + 2 * i, mask=(2 * i < count) & ~whole, other=0).to(gl.int32))
        second = gl.where(whole, last, gl.load(ids + last, mask=(last < count) & ~whole, other=0).to(gl.int32))
    return first, second


@gluon.jit
def _tiles_of(count, SPAN: gl.constexpr):
    """Tiles of 128 keys in a list; an empty one has a tile too, of which nothing is seen."""
    return gl.maximum(count if SPAN == 2 else (count + 1) // 2, 1)


@gluon.jit
def _load_list(descs, buffers, bars, ids, place, base, D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr):
    """Load the keys and values of the list as stages become free; ``base`` tiles went through them before."""
    _, k_desc, v_desc = descs
    _, k_tiles, v_tiles = buffers
    q_full, k_full, k_empty, v_full, v_empty, turns = bars
    b, h, head, first_row, count, whole = place
    tiles = _tiles_of(count, SPAN)
    first, second = _pair(ids, tiles - 1, count, whole, SPAN)
    for j in range(tiles):
        stage, phase = (base + j) % STAGES, ((base + j) // STAGES) & 1
        # The list is read one tile ahead: its latency would stall the loads.
        next_first, next_second = _pair(ids, gl.maximum(tiles - 2 - j, 0), count, whole, SPAN)
        mbarrier.wait(k_empty.index(stage), phase ^ 1)
        load_blocks(k_desc, k_tiles.index(stage), k_full.index(stage), b, h, first * 64, second * 64, D)
        mbarrier.wait(v_empty.index(stage), phase ^ 1)
        load_blocks(v_desc, v_tiles.index(stage), v_full.index(stage), b, h, first * 64, second * 64, D)
        first, second = next_first, next_second


@gluon.jit
def _load(
    descs, buffers, bars, verdicts, data, place, sizes, strides, D: gl.constexpr, STAGES: gl.constexpr,
    SPAN: gl.constexpr, SCORES: gl.constexpr, RUNNING: gl.constexpr, HALF: gl.constexpr,
):  # fmt: skip
    """The warp that loads: queries once, then keys and values, and these again if the warpgroups ask for it."""
    b, h, head, first_row, count, whole = place
    load_queries(descs[0], buffers[0], bars[0].index(0), b, h, first_row, D)
    _load_list(descs, buffers, bars, data[0], place, 0, D, STAGES, SPAN)
    if not RUNNING:
        if _verdict(verdicts, 1):
            _load_list(descs, buffers, bars, data[0], place, _tiles_of(count, SPAN), D, STAGES, SPAN)


@gluon.jit
def _verdict(verdicts, WARPS: gl.constexpr):
    """Whether one of the two warpgroups asks for the list again; waits for both."""
    asked, judged = verdicts
    mbarrier.wait(judged.index(0), 0)
    return gl.max(asked.load(gl.BlockedLayout([1], [32], [WARPS], [0])), 0) > 0


@gluon.jit
def _row_sums(p, top, cached, weights, head, row, key_block, strips, nk, SCORES: gl.constexpr):
    """The sums of the rows of ``p [64, 128]``, which taken to the cached LSE are the weights of two key blocks."""
    if SCORES:
        halves = gl.sum(gl.reshape(p, [64, 2, 64]), 2)
        factor = gl.convert_layout(gl.exp2(top - cached), gl.SliceLayout(1, halves.type.layout))
        store_weights(halves * factor[:, None], weights, head, row, key_block, strips, nk, 16)
        sums = gl.convert_layout(gl.sum(halves, 1), gl.SliceLayout(1, p.type.layout))
    else:
        sums = gl.sum(p, 1)
    return sums


@gluon.jit
def _walk(
    buffers, bars, data, place, sizes, q, cached, base, D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr,
    SCORES: gl.constexpr, RUNNING: gl.constexpr, HALF: gl.constexpr,
):  # fmt: skip
    """The softmax of 64 query rows over all tiles of the list: output, sums, and what the exponents were taken to."""
    _, k_tiles, v_tiles = buffers
    _, k_full, k_empty, v_full, v_empty, turns = bars
    b, h, head, first_row, count, whole = place
    ids, out, lse, cached_lse, weights = data
    q_tokens, k_tokens, strips, nk, scale = sizes
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
    dtype: gl.constexpr = k_tiles.dtype
    first_row = first_row + HALF * 64
    tiles = _tiles_of(count, SPAN)

    # The last tile of the list comes first, with its mask.
    s = warpgroup_mma_wait(0, deps=[start_scores(q, k_tiles, k_full, base, STAGES, s_layout)])
    mbarrier.arrive(k_empty.index(base % STAGES), count=1)
    first, second = _pair(ids, tiles - 1, count, whole, SPAN)
    column = gl.arange(0, 128, layout=gl.SliceLayout(0, s_layout))
    key = gl.where(column < 64, first * 64, second * 64) + column % 64
    listed = (count > 0) if SPAN == 2 else 2 * (tiles - 1) + column // 64 < count
    s = gl.where((listed & (key < k_tokens))[None, :], s, float("-inf"))
    top = gl.max(s, 1) * scale
    if not RUNNING:
        top = gl.where(top == float("-inf"), 0.0, top) + START
    p = gl.exp2(s * scale - gl.where(top == float("-inf"), 0.0, top)[:, None])
    total = _row_sums(p, top, cached, weights, head, first_row, 2 * (tiles - 1), strips, nk, SCORES)
    acc = gl.zeros([64, D], gl.float32, o_layout)
    for j in range(1, tiles):
        stage = (base + j - 1) % STAGES
        p_operand = gl.convert_layout(p.to(dtype), p_layout)
        if not RUNNING:
            mbarrier.wait(turns.index(HALF), ((j - 1) & 1) ^ (1 - HALF))
        scores = start_scores(q, k_tiles, k_full, base + j, STAGES, s_layout)
        mbarrier.wait(v_full.index(stage), ((base + j - 1) // STAGES) & 1)
        product = warpgroup_mma(p_operand, v_tiles.index(stage), acc, is_async=True)
        if not RUNNING:
            mbarrier.arrive(turns.index(1 - HALF), count=1)
        s = warpgroup_mma_wait(1, deps=[scores])
        mbarrier.arrive(k_empty.index((base + j) % STAGES), count=1)
        if RUNNING:
            new_top = gl.maximum(top, gl.max(s, 1) * scale)
            before = gl.exp2(top - new_top)
            top, total = new_top, total * before
        p = gl.exp2(s * scale - top[:, None])
        total += _row_sums(p, top, cached, weights, head, first_row, 2 * (tiles - 1 - j), strips, nk, SCORES)
        acc = warpgroup_mma_wait(0, deps=[product])
        mbarrier.arrive(v_empty.index(stage), count=1)
        if RUNNING:
            acc = acc * gl.convert_layout(before, gl.SliceLayout(1, o_layout))[:, None]
    stage = (base + tiles - 1) % STAGES
    mbarrier.wait(v_full.index(stage), ((base + tiles - 1) // STAGES) & 1)
    p_operand = gl.convert_layout(p.to(dtype), p_layout)
    acc = warpgroup_mma(p_operand, v_tiles.index(stage), acc)
    mbarrier.arrive(v_empty.index(stage), count=1)
    return acc, total, top


@gluon.jit
def _attend(
    descs, buffers, bars, verdicts, data, place, sizes, strides, D: gl.constexpr, STAGES: gl.constexpr,
    SPAN: gl.constexpr, SCORES: gl.constexpr, RUNNING: gl.constexpr, HALF: gl.constexpr,
):  # fmt: skip
    """The warpgroup of 64 of the query rows."""
    b, h, head, first_row, count, whole = place
    ids, out, lse, cached_lse, weights = data
    q_tokens, k_tokens, strips, nk, scale = sizes
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    o_rows: gl.constexpr = gl.SliceLayout(1, o_layout)

    row = first_row + HALF * 64 + gl.arange(0, 64, layout=gl.SliceLayout(1, s_layout))
    cached = gl.zeros([64], gl.float32, gl.SliceLayout(1, s_layout))
    if SCORES:
        # Rows beyond the sequence weigh nothing: exp2(x - inf) = 0.
        cached = gl.load(cached_lse + head.to(gl.int64) * q_tokens + row, mask=row < q_tokens, other=float("inf"))
        cached *= 1.4426950408889634
    mbarrier.wait(bars[0].index(0), 0)
    q = buffers[0].index(HALF)
    acc, total, top = _walk(
        buffers, bars, data, place, sizes, q, cached, 0, D, STAGES, SPAN, SCORES, RUNNING, HALF
    )  # fmt: skip
    if not RUNNING:
        # Not a number it stays with a running maximum, too.
        beyond = gl.max(gl.where(total >= gl.exp2(HEADROOM), 1, 0), 0)
        asked, judged = verdicts
        asked.slice(HALF, 1).store(gl.full([1], beyond, gl.int32, gl.BlockedLayout([1], [32], [4], [0])))
        mbarrier.arrive(judged.index(0), count=1)
        if _verdict(verdicts, 4):
            acc, total, top = _walk(
                buffers, bars, data, place, sizes, q, cached, _tiles_of(count, SPAN), D, STAGES, SPAN, SCORES, True,
                HALF,
            )  # fmt: skip

    # An empty row has zeros, and log2(0) is its LSE.
    acc = acc / gl.convert_layout(gl.where(total > 0, total, 1.0), o_rows)[:, None]
    stride_b, stride_h, stride = strides
    o_row = first_row + HALF * 64 + gl.arange(0, 64, layout=o_rows)
    o_column = gl.arange(0, D, layout=gl.SliceLayout(0, o_layout))
    at = out + b.to(gl.int64) * stride_b + h.to(gl.int64) * stride_h
    at += o_row.to(gl.int64)[:, None] * stride + o_column[None, :]
    gl.store(at, acc.to(buffers[0].dtype), mask=(o_row < q_tokens)[:, None])
    values = (top + gl.log2(total)) * 0.6931471805599453
    gl.store(lse + head.to(gl.int64) * q_tokens + row, values, mask=row < q_tokens)


@gluon.jit(do_not_specialize=["heads", "q_tokens", "k_tokens", "strips", "nk", "tiles", "width"])
def attention_kernel(
    q_desc, k_desc, v_desc, ids, counts, out, lse, cached_lse, weights, stride_b, stride_h, stride,
    heads, q_tokens, k_tokens, strips, nk, tiles, width, scale,
    D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr, LISTED: gl.constexpr, SCORES: gl.constexpr,
    RUNNING: gl.constexpr,
):  # fmt: skip
    program = gl.program_id(0)
    head, tile = program // tiles, program % tiles
    count = nk
    if LISTED:
        count = gl.load(counts + program)
        ids += program.to(gl.int64) * width
    place = (head // heads, head % heads, head, tile * 128, count, count == nk)
    dtype: gl.constexpr = q_desc.dtype
    layout: gl.constexpr = gl.NVMMASharedLayout(128, 16, rank=2)
    q_tiles = gl.allocate_shared_memory(dtype, [2, 64, D], layout)
    k_tiles = gl.allocate_shared_memory(dtype, [STAGES, 128, D], layout)
    v_tiles = gl.allocate_shared_memory(dtype, [STAGES, 128, D], layout)
    q_full = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_full.index(0), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(v_full.index(i), count=1)
        mbarrier.init(k_empty.index(i), count=2)  # both warpgroups have read it
        mbarrier.init(v_empty.index(i), count=2)
    turns = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    mbarrier.init(turns.index(0), count=1)
    mbarrier.init(turns.index(1), count=1)
    asked = gl.allocate_shared_memory(gl.int32, [2], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    judged = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    mbarrier.init(judged.index(0), count=2)
    fence_async_shared()
    descs, buffers = (q_desc, k_desc, v_desc), (q_tiles, k_tiles, v_tiles)
    bars, data = (q_full, k_full, k_empty, v_full, v_empty, turns), (ids, out, lse, cached_lse, weights)
    verdicts = (asked, judged)
    sizes, strides = (q_tokens, k_tokens, strips, nk, scale), (stride_b, stride_h, stride)
    gl.warp_specialize(
        [
            (
                _attend,
                (descs, buffers, bars, verdicts, data, place, sizes, strides, D, STAGES, SPAN, SCORES, RUNNING, 0),
            ),
            (
                _attend,
                (descs, buffers, bars, verdicts, data, place, sizes, strides, D, STAGES, SPAN, SCORES, RUNNING, 1),
            ),
            (_load, (descs, buffers, bars, verdicts, data, place, sizes, strides, D, STAGES, SPAN, SCORES, RUNNING, 0)),
        ],
        [4, 1],
        [240, 24],
    )


def block_sparse_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ids: torch.Tensor, counts: torch.Tensor, key_block: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Output and LSE over the listed key blocks, of query blocks of 128 and key blocks of 64 or 128."""
    out, lse = torch.empty_like(q), torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    _launch(q, k, v, out, lse, scale, ids=ids.contiguous(), counts=counts.contiguous(), span=key_block // KEYS)
    return out, lse


def dense_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and LSE over all keys."""
    out, lse = torch.empty_like(q), torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    _launch(q, k, v, out, lse, scale)
    return out, lse


def attention_with_scores(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cached_lse: torch.Tensor, query_block: int, key_block: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Dense output, block weights from the cached LSE, and LSE; the blocks are multiples of 16 rows and of 64 keys."""
    out, lse = torch.empty_like(q), torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    query_blocks, strips = triton.cdiv(q.shape[2], query_block), query_block // STRIP
    shape = (*q.shape[:2], query_blocks * strips, triton.cdiv(k.shape[2], KEYS))
    weights = torch.empty(shape, dtype=torch.float32, device=q.device)
    _launch(q, k, v, out, lse, scale, cached_lse=cached_lse.float().contiguous(), weights=weights)
    return out, merge_strips(weights, strips, query_blocks, key_block // KEYS), lse


def _launch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    scale: float,
    *,
    ids: torch.Tensor | None = None,
    counts: torch.Tensor | None = None,
    span: int = 1,
    cached_lse: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> None:
    batch, heads, tokens, dim = q.shape
    tiles = triton.cdiv(tokens, QUERY_TILE)
    # What a variant does not read is given as ``lse``, so that each has the one signature.
    with torch.cuda.device_of(q):
        attention_kernel[(batch * heads * tiles,)](
            panels(q), panels(k), panels(v), lse if ids is None else ids, lse if counts is None else counts, out, lse,
            lse if cached_lse is None else cached_lse, lse if weights is None else weights, *out.stride()[:3],
            heads, tokens, k.shape[2], 0 if weights is None else weights.shape[2], triton.cdiv(k.shape[2], KEYS * span),
            tiles, 0 if ids is None else ids.shape[-1], scale * LOG2_E,
            D=dim, STAGES=STAGES[dim], SPAN=span, LISTED=ids is not None, SCORES=weights is not None,
            RUNNING=q.dtype != torch.bfloat16, **REGISTERS,
        )  # fmt: skip
