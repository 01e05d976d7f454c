# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Block mass from a cached LSE on Hopper GPUs, in eight bits: query-key products in int8, no values.

Exponentials have the bits of bfloat16 (`adaspa.ops.hopper_eight.exponentials`), whose errors cancel in a block's sum. A
program has three warpgroups, each with 64 query rows and two accumulators: one is multiplied while it does the
exponentials of the other.
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

# Gluon's own name for it is private; its tutorials import it from here.
from triton.language.core import _aggregate as aggregate

from adaspa.index import num_blocks
from adaspa.ops.device import unit_stride
from adaspa.ops.hopper.tiles import KEYS, STRIP, merge_strips, sum_up
from adaspa.ops.hopper_eight.exponentials import LEVEL, STEP, exponentials, operands, quads
from adaspa.ops.hopper_eight.prepare import prepared
from adaspa.ops.hopper_eight.program import BlockDescriptor
from adaspa.ops.triton.launch import Launcher
from adaspa.ops.triton.tiles import LOG2_E

STAGES = 6  # tiles of keys in shared memory
QUERY_TILE = gl.constexpr(192)  # query rows of a program, a third of them in each warpgroup
REGISTERS = {"num_warps": 4, "maxnreg": 128}  # of 512 threads: 160 for those that compute, 24 for those that load
EXPONENTIALS, OPERANDS = gl.constexpr(exponentials("s32", "bf16")), gl.constexpr(operands("s32", "bf16"))
OF_MASKED, MASKED_OPERANDS = gl.constexpr(exponentials("f32", "bf16")), gl.constexpr(operands("f32", "bf16"))
# Of two numbers in bfloat16, 2**64 times their sum.
SUM = gl.constexpr(
    "{ .reg .b32 a, b; shl.b32 a, $1, 16; and.b32 b, $1, -65536; add.rn.f32 a, a, b; mul.rn.f32 $0, a, 0f5F800000; }"
)
# Exponentials are 2**-64 of themselves, so that those from a stale LSE have room.
ROOM = gl.constexpr(64)


@aggregate
class Buffers:
    """Tiles in shared memory, and the barriers by which loads and products wait for each other."""

    q: gl.shared_memory_descriptor  # [3, 64, D]
    k: gl.shared_memory_descriptor  # [STAGES, 128, D]
    q_full: gl.shared_memory_descriptor
    k_full: gl.shared_memory_descriptor
    k_empty: gl.shared_memory_descriptor

    @gluon.constexpr_function
    def __init__(self, q, k, q_full, k_full, k_empty):
        self.q, self.k, self.q_full, self.k_full, self.k_empty = q, k, q_full, k_full, k_empty


@aggregate
class Work:
    """Work of a program: the rows that it scores, and against how much."""

    batch: gl.tensor
    head: gl.tensor
    row_of_heads: gl.tensor
    """``batch * heads + head``."""
    first_row: gl.tensor
    q_tokens: gl.tensor
    k_tokens: gl.tensor
    strips: gl.tensor
    nk: gl.tensor
    q_scales: gl.tensor
    k_scales: gl.tensor
    """Scales of the head's blocks."""
    cached_lse: gl.tensor
    block_mass: gl.tensor

    @gluon.constexpr_function
    def __init__(
        self, batch, head, row_of_heads, first_row, q_tokens, k_tokens, strips, nk, q_scales, k_scales, cached_lse,
        block_mass,
    ):  # fmt: skip
        self.batch, self.head, self.row_of_heads, self.first_row = batch, head, row_of_heads, first_row
        self.q_tokens, self.k_tokens, self.strips, self.nk = q_tokens, k_tokens, strips, nk
        self.q_scales, self.k_scales, self.cached_lse, self.block_mass = q_scales, k_scales, cached_lse, block_mass


@gluon.jit
def _load(q_desc, k_desc, buffers, work, D: gl.constexpr, STAGES: gl.constexpr):
    """Run the warp that loads: queries once, then keys as stages become free."""
    bar = buffers.q_full.index(0)
    mbarrier.expect(bar, QUERY_TILE * D)
    for group in gl.static_range(3):
        part = buffers.q.index(group)._reinterpret(q_desc.dtype, [1, 1, 64, D], q_desc.layout)
        tma.async_copy_global_to_shared(q_desc, [work.batch, work.head, work.first_row + group * 64, 0], bar, part)
    for j in range((work.nk + 1) // 2):
        stage = j % STAGES
        mbarrier.wait(buffers.k_empty.index(stage), ((j // STAGES) & 1) ^ 1)
        bar = buffers.k_full.index(stage)
        mbarrier.expect(bar, 128 * D)
        parts = buffers.k.index(stage)._reinterpret(k_desc.dtype, [2, 1, 1, 64, D], k_desc.layout)
        for half in gl.static_range(2):
            at = [work.batch, work.head, j * 128 + half * 64, 0]
            tma.async_copy_global_to_shared(k_desc, at, bar, parts.index(half))


@gluon.jit
def _start_scores(q, buffers, j, STAGES: gl.constexpr, layout: gl.constexpr):
    """Begin ``q [64, D]`` times the keys of the ``j``-th tile, as soon as they are there."""
    stage = j % STAGES
    mbarrier.wait(buffers.k_full.index(stage), (j // STAGES) & 1)
    nothing = gl.zeros([64, 128], gl.int32, layout)
    return warpgroup_mma(q, buffers.k.index(stage).permute([1, 0]), nothing, use_acc=False, is_async=True)


@gluon.jit
def _end_scores(scores, buffers, j, STAGES: gl.constexpr):
    """Return the scores of the ``j``-th tile, and give its keys back."""
    s = warpgroup_mma_wait(0, deps=[scores])
    mbarrier.arrive(buffers.k_empty.index(j % STAGES), count=1)
    return s


@gluon.jit
def _scales(work, j, layout: gl.constexpr):
    """Return the scales of a tile's two blocks of keys."""
    return gl.load(work.k_scales + gl.minimum(2 * j + gl.arange(0, 2, layout=layout), work.nk - 1))


@gluon.jit
def _halved(p):
    """Add the second half of the last axis to the first one; each element is two numbers in bfloat16."""
    a, b = gl.split(gl.permute(gl.reshape(p, [64, 2, 2, p.shape[2] // 2]), [0, 1, 3, 2]))
    return gl.inline_asm_elementwise("add.rn.bf16x2 $0, $1, $2;", "=r,r,r", [a, b], gl.int32, True, 1)


@gluon.jit
def _sum_up(s, q_scale, k_scale, cached, work, first_row, j, ROWS: gl.constexpr, PARTIAL: gl.constexpr):
    """Store the mass of the two key blocks of tile ``j``."""
    if PARTIAL:
        key = j * 128 + gl.arange(0, 128, layout=gl.SliceLayout(0, s.type.layout))
        s = gl.where((key < work.k_tokens)[None, :], s.to(gl.float32), float("-inf"))
    s0, s1, s2, s3 = quads(s)
    blocks: gl.constexpr = gl.SliceLayout(2, s0.type.layout)
    factor = gl.convert_layout(q_scale, gl.SliceLayout(1, blocks))[:, None]
    factor = factor * gl.convert_layout(k_scale, gl.SliceLayout(0, blocks))[None, :]
    whole = gl.zeros_like(s0).to(gl.float32)
    g = (factor * STEP)[:, :, None] + whole
    h = (((127 - ROOM) * 8 + LEVEL) * 2.0**-24 - gl.convert_layout(cached, gl.SliceLayout(1, blocks)) * STEP)[:, None]
    h = h[:, :, None] + whole
    if PARTIAL:
        p = gl.inline_asm_elementwise(OF_MASKED, MASKED_OPERANDS, [s0, s1, s2, s3, g, h], gl.int32, True, 1)
    else:
        p = gl.inline_asm_elementwise(EXPONENTIALS, OPERANDS, [s0, s1, s2, s3, g, h], gl.int32, True, 1)
    p = gl.inline_asm_elementwise(SUM, "=f,r", [_halved(_halved(p))], gl.float32, True, 1)
    sum_up(gl.reshape(p, [64, 8]), work.block_mass, work.row_of_heads, first_row, 2 * j, work.strips, work.nk, ROWS)


@gluon.jit
def _score(buffers, work, D: gl.constexpr, STAGES: gl.constexpr, ROWS: gl.constexpr, GROUP: gl.constexpr):
    """Run the warpgroup of 64 of the query rows."""
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 32])
    in_blocks = gl.reshape(gl.zeros([64, 128], gl.float32, layout), [64, 2, 64])
    scales_layout: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(2, in_blocks.type.layout))
    first_row = work.first_row + GROUP * 64
    row = first_row + gl.arange(0, 64, layout=gl.SliceLayout(1, layout))
    at = work.row_of_heads.to(gl.int64) * work.q_tokens + row
    # Rows beyond the sequence weigh nothing: 2**-inf = 0. A scale of 0 would make NaN of a key that is not there.
    q_scale = gl.load(work.q_scales + at, mask=row < work.q_tokens, other=1.0)
    cached = gl.load(work.cached_lse + at, mask=row < work.q_tokens, other=float("inf"))
    q = buffers.q.index(GROUP)
    tiles = (work.nk + 1) // 2
    k_scale = _scales(work, 0, scales_layout)
    mbarrier.wait(buffers.q_full.index(0), 0)
    s = _end_scores(_start_scores(q, buffers, 0, STAGES, layout), buffers, 0, STAGES)
    # Two tiles at a time, so that the scores of each keep their registers.
    for pair in range(0, (tiles - 1) // 2):
        j = 2 * pair
        scores, next_k_scale = _start_scores(q, buffers, j + 1, STAGES, layout), _scales(work, j + 1, scales_layout)
        _sum_up(s, q_scale, k_scale, cached, work, first_row, j, ROWS, False)
        s = _end_scores(scores, buffers, j + 1, STAGES)
        scores, k_scale = _start_scores(q, buffers, j + 2, STAGES, layout), _scales(work, j + 2, scales_layout)
        _sum_up(s, q_scale, next_k_scale, cached, work, first_row, j + 1, ROWS, False)
        s = _end_scores(scores, buffers, j + 2, STAGES)
    if tiles % 2 == 0:
        _sum_up(s, q_scale, k_scale, cached, work, first_row, tiles - 2, ROWS, False)
        k_scale = _scales(work, tiles - 1, scales_layout)
        s = _end_scores(_start_scores(q, buffers, tiles - 1, STAGES, layout), buffers, tiles - 1, STAGES)
    _sum_up(s, q_scale, k_scale, cached, work, first_row, tiles - 1, ROWS, True)


@gluon.jit(do_not_specialize=["heads", "q_tokens", "k_tokens", "strips", "nk", "tiles"])
def block_mass_kernel(
    q_desc, k_desc, q_scales, k_scales, cached_lse, block_mass, heads, q_tokens, k_tokens, strips, nk, tiles,
    D: gl.constexpr, STAGES: gl.constexpr, ROWS: gl.constexpr,
):  # fmt: skip
    program = gl.program_id(0)
    head, tile = program // tiles, program % tiles
    layout: gl.constexpr = gl.NVMMASharedLayout(D, 8, rank=2)
    q_tiles = gl.allocate_shared_memory(q_desc.dtype, [3, 64, D], layout)
    k_tiles = gl.allocate_shared_memory(k_desc.dtype, [STAGES, 128, D], layout)
    q_full = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_full.index(0), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(k_empty.index(i), count=3)  # all warpgroups have read it
    fence_async_shared()
    buffers = Buffers(q_tiles, k_tiles, q_full, k_full, k_empty)
    work = Work(
        head // heads, head % heads, head, tile * QUERY_TILE, q_tokens, k_tokens, strips, nk,
        q_scales, k_scales + head * nk, cached_lse, block_mass,
    )  # fmt: skip
    gl.warp_specialize(
        [
            (_score, (buffers, work, D, STAGES, ROWS, 0)),
            (_score, (buffers, work, D, STAGES, ROWS, 1)),
            (_score, (buffers, work, D, STAGES, ROWS, 2)),
            (_load, (q_desc, k_desc, buffers, work, D, STAGES)),
        ],
        [4, 4, 1],
        [160, 160, 24],
    )


launch_block_mass = Launcher(block_mass_kernel)


def block_mass(
    q: torch.Tensor,
    k: torch.Tensor,
    cached_lse: torch.Tensor,
    query_block: int,
    key_block: int,
    scale: float,
    query_stride: int,
) -> torch.Tensor:
    """Block mass ``[B, H, nq, nk]``; the key blocks are multiples of 64."""
    # The sampled rows are a view with wider strides: nothing is copied.
    q, cached_lse = unit_stride(q)[:, :, ::query_stride], cached_lse[:, :, ::query_stride]
    ready = prepared(q, k, None, scale)
    batch, heads, tokens, dim = q.shape
    query_rows = query_block // query_stride
    rows = min(STRIP.value, query_rows)
    query_blocks, strips = num_blocks(tokens, query_rows), query_rows // rows
    nk, tiles = ready.k_scales.shape[-1], num_blocks(tokens, QUERY_TILE.value)
    mass = torch.empty((batch, heads, query_blocks * strips, nk), dtype=torch.float32, device=q.device)
    launch_block_mass(
        (batch * heads * tiles, 1, 1),
        BlockDescriptor(ready.q, [1, 1, 64, dim]), BlockDescriptor(ready.k, [1, 1, 64, dim]),
        ready.q_scales, ready.k_scales, (cached_lse - ready.offsets) * LOG2_E.value, mass,
        heads, tokens, k.shape[2], query_blocks * strips, nk, tiles,
        D=dim, STAGES=STAGES, ROWS=rows, **REGISTERS,
    )  # fmt: skip
    return merge_strips(mass, strips, query_blocks, key_block // KEYS)
