# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Attention in eight bits on Hopper GPUs: block-sparse and dense.

The roles are those of `adaspa.ops.hopper.attention`: a warp loads blocks of 64 keys that lie apart in memory so that
they lie side by side in shared memory, and two warpgroups attend 64 query rows each to all of them. The products are
other ones. Queries and keys are int8 and their sums exact. Softmax is e4m3, relative to a running maximum, which is
taken from the integers: three of them are compared at once. The tensor cores add up e4m3 products in few bits, so that
each tile begins a new sum, and fp32 adds up the tiles: over 115,200 keys of data like `telling` in
`benchmarks.attention.eight`, one sum had an error of 16 % where this has 0.8 %.

Each warpgroup does one thing after the other. The two take turns at the tensor cores, so that one multiplies while the
other does its softmax. Tiles of 256 keys were 12 to 18 % faster than those of 128: what a tile has to wait for comes
half as often.

What takes most of the time is the number of instructions: both warpgroups share what issues them. So softmax comes as
e4m3 at once (`adaspa.ops.hopper_eight.exponentials`), and the scales of keys lie beside them in shared memory.
"""

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

# Gluon's own name for it is private; its tutorials import it from here.
from triton.language.core import _aggregate as aggregate

from adaspa.index import BlockIndex, num_blocks
from adaspa.ops.device import unit_stride
from adaspa.ops.hopper.tiles import KEYS
from adaspa.ops.hopper_eight.exponentials import LEVEL, STEP, exponentials, operands, quads
from adaspa.ops.hopper_eight.prepare import Prepared, prepared
from adaspa.ops.triton.launch import Launcher, Unchecked
from adaspa.ops.triton.tiles import LN_2

N = gl.constexpr(256)  # keys of a tile
STAGES = 2  # tiles of keys and of values in shared memory
REGISTERS = {"num_warps": 4, "maxnreg": 168}  # of 384 threads: 240 for those that compute, 24 for those that load
# The largest exponential of a row is 2**TOP, so that most of the range of e4m3, which ends at 448, is below it.
TOP = gl.constexpr(8.0)
EXPONENTIALS, OPERANDS = gl.constexpr(exponentials("s32", "e4m3")), gl.constexpr(operands("s32", "e4m3"))
OF_MASKED, MASKED_OPERANDS = gl.constexpr(exponentials("f32", "e4m3")), gl.constexpr(operands("f32", "e4m3"))
BOTH = gl.constexpr((gl.int32, gl.int32))
# Of two numbers in fp16, 256 times their sum.
SUM = gl.constexpr(
    "{ .reg .f16 a, b; .reg .f32 x, y; mov.b32 {a, b}, $1; cvt.f32.f16 x, a; cvt.f32.f16 y, b; add.rn.f32 x, x, y; "
    "mul.rn.f32 $0, x, 0f43800000; }"
)


# Of blocks in shared memory, by the bytes of their rows.
LAYOUTS = {size: gl.NVMMASharedLayout(swizzle_byte_width=size, element_bitwidth=8, rank=4) for size in (64, 128)}


class BlockDescriptor(Unchecked, TensorDescriptor):
    """Descriptor of blocks of eight-bit ``[., ., rows, columns]`` as the tensor cores want them.

    Args:
        x: the tensor.
        block_shape: ``[1, 1, rows, columns]``.
    """

    def __init__(self, x: torch.Tensor, block_shape: list[int]) -> None:
        super().__init__(x, block_shape)
        self.layout = LAYOUTS[block_shape[3]]


@aggregate
class Buffers:
    """Tiles in shared memory, and the barriers by which loads and products wait for each other."""

    q: gl.shared_memory_descriptor  # [2, 64, D]
    k: gl.shared_memory_descriptor  # [STAGES, N, D]
    v: gl.shared_memory_descriptor  # [STAGES, D, N]
    k_scales: gl.shared_memory_descriptor
    """Scales of the keys of each stage, by block of 64: ``[STAGES, N // 64]``."""
    q_full: gl.shared_memory_descriptor
    k_full: gl.shared_memory_descriptor
    k_empty: gl.shared_memory_descriptor
    v_full: gl.shared_memory_descriptor
    v_empty: gl.shared_memory_descriptor
    pingpong_bars: gl.shared_memory_descriptor
    """Whose turn it is at the tensor cores."""

    @gluon.constexpr_function
    def __init__(self, q, k, v, k_scales, q_full, k_full, k_empty, v_full, v_empty, pingpong_bars):
        self.q, self.k, self.v, self.k_scales, self.q_full = q, k, v, k_scales, q_full
        self.k_full, self.k_empty, self.v_full, self.v_empty = k_full, k_empty, v_full, v_empty
        self.pingpong_bars = pingpong_bars


@aggregate
class Work:
    """Rows of a program, and the list of their key blocks."""

    batch: gl.tensor
    head: gl.tensor
    row_of_heads: gl.tensor
    """``batch * heads + head``."""
    first_row: gl.tensor
    ids: gl.tensor
    count: gl.tensor
    whole: gl.tensor
    """True if all key blocks are kept, so that ``ids`` is not read."""
    k_scales: gl.tensor
    blocks: gl.tensor
    """Blocks of 64 keys in the sequence."""

    @gluon.constexpr_function
    def __init__(self, batch, head, row_of_heads, first_row, ids, count, whole, k_scales, blocks):
        self.batch, self.head, self.row_of_heads, self.first_row = batch, head, row_of_heads, first_row
        self.ids, self.count, self.whole = ids, count, whole
        self.k_scales, self.blocks = k_scales, blocks


@aggregate
class Memory:
    """Pointers to what is read beside the tiles, and to what is written."""

    out: gl.tensor
    lse: gl.tensor
    q_scales: gl.tensor
    v_scales: gl.tensor
    offsets: gl.tensor
    stride_b: gl.tensor
    stride_h: gl.tensor
    stride: gl.tensor
    q_tokens: gl.tensor
    k_tokens: gl.tensor

    @gluon.constexpr_function
    def __init__(self, out, lse, q_scales, v_scales, offsets, stride_b, stride_h, stride, q_tokens, k_tokens):
        self.out, self.lse, self.q_scales, self.v_scales, self.offsets = out, lse, q_scales, v_scales, offsets
        self.stride_b, self.stride_h, self.stride = stride_b, stride_h, stride
        self.q_tokens, self.k_tokens = q_tokens, k_tokens


@gluon.jit
def _tiles_of(count, SPAN: gl.constexpr):
    """Count the tiles in a list; an empty one has a tile too, of which nothing is seen."""
    return gl.maximum((count * SPAN + N // 64 - 1) // (N // 64), 1)


@gluon.jit
def _blocks(work, place, SPAN: gl.constexpr):
    """Return the blocks of 64 keys at some places of the list; beyond its end, the last one again."""
    entry = gl.minimum(place // SPAN, gl.maximum(work.count - 1, 0))
    listed = gl.load(work.ids + entry, mask=(entry < work.count) & ~work.whole, other=0).to(gl.int32)
    return gl.where(work.whole, entry, listed) * SPAN + place % SPAN


@gluon.jit
def _four_blocks(work, tile, SPAN: gl.constexpr):
    """Return the blocks of 64 keys of a tile."""
    a, b = _blocks(work, tile * 4, SPAN), _blocks(work, tile * 4 + 1, SPAN)
    c, d = _blocks(work, tile * 4 + 2, SPAN), _blocks(work, tile * 4 + 3, SPAN)
    return a, b, c, d


@gluon.jit
def _load(q_desc, k_desc, v_desc, buffers, work, D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr):
    """Load queries once, then keys and values as stages become free, from the end of the list."""
    bar = buffers.q_full.index(0)
    mbarrier.expect(bar, 128 * D)
    for half in gl.static_range(2):
        part = buffers.q.index(half)._reinterpret(q_desc.dtype, [1, 1, 64, D], q_desc.layout)
        tma.async_copy_global_to_shared(q_desc, [work.batch, work.head, work.first_row + half * 64, 0], bar, part)
    tiles = _tiles_of(work.count, SPAN)
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    ahead, next_k_scale = _four_blocks(work, tiles - 1, SPAN), _scales(work, tiles - 1, SPAN, layout)
    for j in range(tiles):
        stage, phase = j % STAGES, (j // STAGES) & 1
        blocks, k_scale = ahead, next_k_scale
        # The list is read one tile ahead: its latency would stall the loads.
        following = gl.maximum(tiles - 2 - j, 0)
        ahead, next_k_scale = _four_blocks(work, following, SPAN), _scales(work, following, SPAN, layout)
        mbarrier.wait(buffers.k_empty.index(stage), phase ^ 1)
        buffers.k_scales.index(stage).store(k_scale)
        bar = buffers.k_full.index(stage)
        mbarrier.expect(bar, N * D)
        parts = buffers.k.index(stage)._reinterpret(k_desc.dtype, [N // 64, 1, 1, 64, D], k_desc.layout)
        for i in gl.static_range(N // 64):
            at = [work.batch, work.head, blocks[i] * 64, 0]
            tma.async_copy_global_to_shared(k_desc, at, bar, parts.index(i))
        mbarrier.wait(buffers.v_empty.index(stage), phase ^ 1)
        bar = buffers.v_full.index(stage)
        mbarrier.expect(bar, N * D)
        parts = buffers.v.index(stage)._reinterpret(v_desc.dtype, [N // 64, 1, 1, D, 64], v_desc.layout)
        for i in gl.static_range(N // 64):
            at = [work.row_of_heads, blocks[i], 0, 0]
            tma.async_copy_global_to_shared(v_desc, at, bar, parts.index(i))


@gluon.jit
def _start_scores(q, buffers, j, STAGES: gl.constexpr, layout: gl.constexpr, scales_layout: gl.constexpr):
    """Begin ``q [64, D]`` times the keys of the ``j``-th tile, as soon as they are there; return their scales, too."""
    stage = j % STAGES
    mbarrier.wait(buffers.k_full.index(stage), (j // STAGES) & 1)
    nothing = gl.zeros([64, N], gl.int32, layout)
    scores = warpgroup_mma(q, buffers.k.index(stage).permute([1, 0]), nothing, use_acc=False, is_async=True)
    return scores, buffers.k_scales.index(stage).load(scales_layout)


@gluon.jit
def _scales(work, tile, SPAN: gl.constexpr, layout: gl.constexpr):
    """Return the scales of a tile's blocks of keys."""
    place = tile * (N // 64) + gl.arange(0, N // 64, layout=layout)
    # Of a last block of 128 keys, the second half may not be there.
    return gl.load(work.k_scales + gl.minimum(_blocks(work, place, SPAN), work.blocks - 1))


@gluon.jit
def _masked(s, work, memory, tile, SPAN: gl.constexpr):
    """Return the scores of the last tile of the list, minus infinity where it has no key."""
    column = gl.arange(0, N, layout=gl.SliceLayout(0, s.type.layout))
    place = tile * (N // 64) + column // 64
    key = _blocks(work, place, SPAN) * 64 + column % 64
    return gl.where(((place < work.count * SPAN) & (key < memory.k_tokens))[None, :], s, float("-inf"))


@gluon.jit
def _operand(p, layout: gl.constexpr):
    """Return exponentials, four in an integer ``[64, N // 4]``, as the left operand ``[64, N]``."""
    fours = gl.reshape(gl.zeros([64, N], gl.int32, layout), [64, N // 4, 4])
    p = gl.convert_layout(p, gl.SliceLayout(2, fours.type.layout), assert_trivial=True)
    four = gl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r,r,r,r", [p[:, :, None] + fours], gl.float8e4nv, True, 4)
    return gl.convert_layout(gl.reshape(four, [64, N]), layout, assert_trivial=True)


@gluon.jit
def _halved(p):
    """Add the second half of the columns to the first one; each has two numbers."""
    a, b = gl.split(gl.permute(gl.reshape(p, [64, 2, p.shape[1] // 2]), [0, 2, 1]))
    return gl.inline_asm_elementwise("add.rn.f16x2 $0, $1, $2;", "=r,r,r", [a, b], gl.int32, True, 1)


@gluon.jit
def _lane_sums(p):
    """Sum pairs of exponentials ``[64, N // 4]`` as far as each of a row's four threads can by itself: ``[64, 4]``."""
    p = _halved(_halved(_halved(_halved(p))))
    return gl.inline_asm_elementwise(SUM, "=f,r", [p], gl.float32, True, 1)


@gluon.jit
def _softmax(s, q_scale, k_scale, m_i, MASKED: gl.constexpr):
    """Return the exponentials of a tile, what they are relative to, and the factor of what came before.

    The scores are integers, or numbers if some of them are masked.
    """
    rows: gl.constexpr = m_i.type.layout
    parts = gl.reshape(s, [64, N // 64, 64])
    part_rows: gl.constexpr = gl.SliceLayout(1, gl.SliceLayout(2, parts.type.layout))
    factor = gl.convert_layout(q_scale, part_rows)[:, None] * k_scale[None, :]
    # The largest of each thread first: its four make a row only at the end.
    of_lanes = gl.permute(gl.reshape(s, [64, N // 64, 8, 4, 2]), [0, 1, 3, 2, 4])
    tops = gl.max(gl.reshape(of_lanes, [64, N // 64, 4, 16]), 3).to(gl.float32)
    lanes: gl.constexpr = gl.SliceLayout(2, tops.type.layout)
    tops = gl.max(tops * gl.convert_layout(factor, lanes, assert_trivial=True)[:, :, None], 1)
    m_new = gl.maximum(m_i, gl.convert_layout(gl.max(tops, 1), rows, assert_trivial=True) - TOP)
    s0, s1, s2, s3 = quads(s)
    of_blocks: gl.constexpr = gl.SliceLayout(2, s0.type.layout)
    quad_rows: gl.constexpr = gl.SliceLayout(1, of_blocks)
    reference = gl.convert_layout(gl.where(m_new == float("-inf"), 0.0, m_new), quad_rows)
    whole = gl.zeros_like(s0).to(gl.float32)
    g = (gl.convert_layout(factor, of_blocks) * STEP)[:, :, None] + whole
    h = ((56 + LEVEL) * 2.0**-24 - reference * STEP)[:, None][:, :, None] + whole
    if MASKED:
        p, sums = gl.inline_asm_elementwise(OF_MASKED, MASKED_OPERANDS, [s0, s1, s2, s3, g, h], BOTH, True, 1)
    else:
        p, sums = gl.inline_asm_elementwise(EXPONENTIALS, OPERANDS, [s0, s1, s2, s3, g, h], BOTH, True, 1)
    alpha = gl.where(m_new == float("-inf"), 0.0, gl.exp2(m_i - m_new))
    return gl.reshape(p, [64, N // 4]), _lane_sums(gl.reshape(sums, [64, N // 4])), m_new, alpha


@gluon.jit
def _walk(
    buffers, work, memory, q_scale, D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr, HALF: gl.constexpr
):
    """Return the softmax of 64 query rows over all tiles of the list: output, sums, what both are relative to."""
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 32])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 32])
    o_rows: gl.constexpr = gl.SliceLayout(1, o_layout)
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 4)
    in_blocks = gl.reshape(gl.zeros([64, N], gl.float32, s_layout), [64, N // 64, 64])
    scales_layout: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(2, in_blocks.type.layout))
    tiles = _tiles_of(work.count, SPAN)
    q = buffers.q.index(HALF)
    nothing = gl.zeros([64, D], gl.float32, o_layout)

    # The last tile of the list comes first, with its mask.
    scores, k_scale = _start_scores(q, buffers, 0, STAGES, s_layout, scales_layout)
    s = warpgroup_mma_wait(0, deps=[scores])
    mbarrier.arrive(buffers.k_empty.index(0), count=1)
    m_i = gl.full([64], float("-inf"), gl.float32, gl.SliceLayout(1, s_layout))
    seen = _masked(s.to(gl.float32), work, memory, tiles - 1, SPAN)
    p, l_i, m_i, alpha = _softmax(seen, q_scale, k_scale, m_i, True)
    l_rows: gl.constexpr = gl.SliceLayout(1, l_i.type.layout)
    acc = nothing
    for j in range(1, tiles):
        stage = (j - 1) % STAGES
        p_operand = _operand(p, p_layout)
        mbarrier.wait(buffers.pingpong_bars.index(HALF), ((j - 1) & 1) ^ (1 - HALF))
        mbarrier.wait(buffers.v_full.index(stage), ((j - 1) // STAGES) & 1)
        values = buffers.v.index(stage).permute([1, 0])
        product = warpgroup_mma(p_operand, values, nothing, use_acc=False, is_async=True)
        product = warpgroup_mma_wait(0, deps=[product])
        mbarrier.arrive(buffers.v_empty.index(stage), count=1)
        # Before the next scores begin: there are no registers for these, the product and its sum at once.
        acc = acc * gl.convert_layout(alpha, o_rows)[:, None] + product
        scores, k_scale = _start_scores(q, buffers, j, STAGES, s_layout, scales_layout)
        mbarrier.arrive(buffers.pingpong_bars.index(1 - HALF), count=1)
        s = warpgroup_mma_wait(0, deps=[scores])
        mbarrier.arrive(buffers.k_empty.index(j % STAGES), count=1)
        p, sums, m_i, alpha = _softmax(s, q_scale, k_scale, m_i, False)
        l_i = l_i * gl.convert_layout(alpha, l_rows)[:, None] + sums
    stage = (tiles - 1) % STAGES
    mbarrier.wait(buffers.v_full.index(stage), ((tiles - 1) // STAGES) & 1)
    product = warpgroup_mma(_operand(p, p_layout), buffers.v.index(stage).permute([1, 0]), nothing, use_acc=False)
    acc = acc * gl.convert_layout(alpha, o_rows)[:, None] + product
    return acc, gl.convert_layout(gl.sum(l_i, 1), m_i.type.layout), m_i


@gluon.jit
def _attend(buffers, work, memory, D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr, HALF: gl.constexpr):
    """Attend 64 of the query rows, in a warpgroup of their own."""
    s_rows: gl.constexpr = gl.SliceLayout(1, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 32]))
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 32])
    o_rows: gl.constexpr = gl.SliceLayout(1, o_layout)
    row = work.first_row + HALF * 64 + gl.arange(0, 64, layout=s_rows)
    at_row = work.row_of_heads.to(gl.int64) * memory.q_tokens + row
    q_scale = gl.load(memory.q_scales + at_row, mask=row < memory.q_tokens, other=0.0)
    mbarrier.wait(buffers.q_full.index(0), 0)
    acc, l_i, m_i = _walk(buffers, work, memory, q_scale, D, STAGES, SPAN, HALF)

    # An empty row has zeros, and log2(0) is its LSE.
    o_column = gl.arange(0, D, layout=gl.SliceLayout(0, o_layout))
    v_scale = gl.load(memory.v_scales + work.row_of_heads * D + o_column)
    acc = acc / gl.convert_layout(gl.where(l_i == 0, 1.0, l_i), o_rows)[:, None] * v_scale[None, :]
    o_row = work.first_row + HALF * 64 + gl.arange(0, 64, layout=o_rows)
    at = memory.out + work.batch.to(gl.int64) * memory.stride_b + work.head.to(gl.int64) * memory.stride_h
    at += o_row.to(gl.int64)[:, None] * memory.stride + o_column[None, :]
    gl.store(at, acc.to(memory.out.dtype.element_ty), mask=(o_row < memory.q_tokens)[:, None])
    offset = gl.load(memory.offsets + at_row, mask=row < memory.q_tokens, other=0.0)
    gl.store(memory.lse + at_row, (m_i + gl.log2(l_i)) * LN_2 + offset, mask=row < memory.q_tokens)


@gluon.jit(do_not_specialize=["heads", "q_tokens", "k_tokens", "nk", "blocks", "tiles", "width"])
def attention_kernel(
    q_desc, k_desc, v_desc, ids, counts, out, lse, q_scales, k_scales, v_scales, offsets,
    stride_b, stride_h, stride, heads, q_tokens, k_tokens, nk, blocks, tiles, width,
    D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr, LISTED: gl.constexpr,
):  # fmt: skip
    program = gl.program_id(0)
    head, tile = program // tiles, program % tiles
    count = nk
    if LISTED:
        count = gl.load(counts + program)
        ids += program.to(gl.int64) * width
    of_head = k_scales + head * blocks
    work = Work(head // heads, head % heads, head, tile * 128, ids, count, count == nk, of_head, blocks)
    memory = Memory(out, lse, q_scales, v_scales, offsets, stride_b, stride_h, stride, q_tokens, k_tokens)
    rows_layout: gl.constexpr = gl.NVMMASharedLayout(D, 8, rank=2)
    values_layout: gl.constexpr = gl.NVMMASharedLayout(64, 8, rank=2)
    q_tiles = gl.allocate_shared_memory(q_desc.dtype, [2, 64, D], rows_layout)
    k_tiles = gl.allocate_shared_memory(k_desc.dtype, [STAGES, N, D], rows_layout)
    v_tiles = gl.allocate_shared_memory(v_desc.dtype, [STAGES, D, N], values_layout)
    tile_scales = gl.allocate_shared_memory(gl.float32, [STAGES, N // 64], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    q_full = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    pingpong_bars = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_full.index(0), count=1)
    mbarrier.init(pingpong_bars.index(0), count=1)
    mbarrier.init(pingpong_bars.index(1), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(v_full.index(i), count=1)
        mbarrier.init(k_empty.index(i), count=2)  # both warpgroups have read it
        mbarrier.init(v_empty.index(i), count=2)
    fence_async_shared()
    buffers = Buffers(q_tiles, k_tiles, v_tiles, tile_scales, q_full, k_full, k_empty, v_full, v_empty, pingpong_bars)
    gl.warp_specialize(
        [
            (_attend, (buffers, work, memory, D, STAGES, SPAN, 0)),
            (_attend, (buffers, work, memory, D, STAGES, SPAN, 1)),
            (_load, (q_desc, k_desc, v_desc, buffers, work, D, STAGES, SPAN)),
        ],
        [4, 1],
        [240, 24],
    )


launch_attention = Launcher(attention_kernel)


def block_sparse_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, index: BlockIndex, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and LSE over the listed key blocks, of query blocks of 128 and key blocks of 64 or 128."""
    q = unit_stride(q)
    out, lse = torch.empty_like(q), torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    _launch(prepared(q, k, v, scale), out, lse, index)
    return out, lse


def dense_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and LSE over all keys."""
    q = unit_stride(q)
    out, lse = torch.empty_like(q), torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    _launch(prepared(q, k, v, scale), out, lse)
    return out, lse


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """Output over all keys."""
    return dense_attention(q, k, v, scale)[0]


def _launch(ready: Prepared, out: torch.Tensor, lse: torch.Tensor, index: BlockIndex | None = None) -> None:
    (batch, heads, tokens, dim), k_tokens = ready.q.shape, ready.k.shape[2]
    tiles, span = num_blocks(tokens, 128), 1 if index is None else index.key_block // KEYS
    # What a variant does not read is given as ``lse``, so that each has the one signature.
    ids, counts = (lse, lse) if index is None else (index.ids.contiguous(), index.counts.contiguous())
    launch_attention(
        (batch * heads * tiles, 1, 1),
        BlockDescriptor(ready.q, [1, 1, 64, dim]), BlockDescriptor(ready.k, [1, 1, 64, dim]),
        BlockDescriptor(ready.v, [1, 1, dim, 64]),
        ids, counts, out, lse, ready.q_scales, ready.k_scales, ready.v_scales, ready.offsets, *out.stride()[:3],
        heads, tokens, k_tokens, num_blocks(k_tokens, KEYS * span), num_blocks(k_tokens, KEYS), tiles,
        0 if index is None else ids.shape[-1],
        D=dim, STAGES=STAGES, SPAN=span, LISTED=index is not None, **REGISTERS,
    )  # fmt: skip
