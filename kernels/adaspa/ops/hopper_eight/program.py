# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Parts that the attention kernels of eight bits share: shared memory, products, softmax, and what is written."""

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

# Gluon's own name for it is private; its tutorials import it from here.
from triton.language.core import _aggregate as aggregate

from adaspa.ops.hopper_eight.exponentials import LEVEL, STEP, exponentials, operands, quads
from adaspa.ops.triton.launch import Unchecked
from adaspa.ops.triton.tiles import LN_2

N = gl.constexpr(256)  # keys of a tile
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
def start(q_desc, k_desc, v_desc, D: gl.constexpr, STAGES: gl.constexpr):
    """Allocate the shared memory of a program, and start its barriers."""
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
    return Buffers(q_tiles, k_tiles, v_tiles, tile_scales, q_full, k_full, k_empty, v_full, v_empty, pingpong_bars)


@gluon.jit
def load_queries(desc, buffers, work, D: gl.constexpr):
    """Load 64 query rows for each warpgroup."""
    bar = buffers.q_full.index(0)
    mbarrier.expect(bar, 128 * D)
    for half in gl.static_range(2):
        part = buffers.q.index(half)._reinterpret(desc.dtype, [1, 1, 64, D], desc.layout)
        tma.async_copy_global_to_shared(desc, [work.batch, work.head, work.first_row + half * 64, 0], bar, part)


@gluon.jit
def load_keys(desc, buffers, stage, work, blocks, scales, D: gl.constexpr):
    """Load four blocks of keys as one tile ``[N, D]``, with their scales."""
    buffers.k_scales.index(stage).store(scales)
    bar = buffers.k_full.index(stage)
    mbarrier.expect(bar, N * D)
    parts = buffers.k.index(stage)._reinterpret(desc.dtype, [N // 64, 1, 1, 64, D], desc.layout)
    for i in gl.static_range(N // 64):
        at = [work.batch, work.head, blocks[i] * 64, 0]
        tma.async_copy_global_to_shared(desc, at, bar, parts.index(i))


@gluon.jit
def load_values(desc, buffers, stage, work, blocks, D: gl.constexpr):
    """Load four blocks of values as one tile ``[D, N]``."""
    bar = buffers.v_full.index(stage)
    mbarrier.expect(bar, N * D)
    parts = buffers.v.index(stage)._reinterpret(desc.dtype, [N // 64, 1, 1, D, 64], desc.layout)
    for i in gl.static_range(N // 64):
        tma.async_copy_global_to_shared(desc, [work.row_of_heads, blocks[i], 0, 0], bar, parts.index(i))


@gluon.jit
def start_scores(q, buffers, j, STAGES: gl.constexpr, layout: gl.constexpr, scales_layout: gl.constexpr):
    """Begin ``q [64, D]`` times the keys of the ``j``-th tile, as soon as they are there; return their scales, too."""
    stage = j % STAGES
    mbarrier.wait(buffers.k_full.index(stage), (j // STAGES) & 1)
    nothing = gl.zeros([64, N], gl.int32, layout)
    scores = warpgroup_mma(q, buffers.k.index(stage).permute([1, 0]), nothing, use_acc=False, is_async=True)
    return scores, buffers.k_scales.index(stage).load(scales_layout)


@gluon.jit
def operand(p, layout: gl.constexpr):
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
def softmax(s, q_scale, k_scale, m_i, MASKED: gl.constexpr):
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
def load_query_scales(work, memory, HALF: gl.constexpr):
    """Load the scales of 64 query rows."""
    layout: gl.constexpr = gl.SliceLayout(1, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 32]))
    row = work.first_row + HALF * 64 + gl.arange(0, 64, layout=layout)
    at = memory.q_scales + work.row_of_heads.to(gl.int64) * memory.q_tokens
    return gl.load(at + row, mask=row < memory.q_tokens, other=0.0)


@gluon.jit
def store_rows(acc, l_i, m_i, work, memory, D: gl.constexpr, HALF: gl.constexpr):
    """Store output and LSE of 64 query rows."""
    s_rows: gl.constexpr = gl.SliceLayout(1, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 32]))
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 32])
    o_rows: gl.constexpr = gl.SliceLayout(1, o_layout)
    row = work.first_row + HALF * 64 + gl.arange(0, 64, layout=s_rows)
    at_row = work.row_of_heads.to(gl.int64) * memory.q_tokens + row
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
