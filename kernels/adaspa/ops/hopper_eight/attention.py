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
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

# Gluon's own name for it is private; its tutorials import it from here.
from triton.language.core import _aggregate as aggregate

from adaspa.index import BlockIndex, num_blocks
from adaspa.ops.device import unit_stride
from adaspa.ops.hopper.tiles import KEYS
from adaspa.ops.hopper_eight.prepare import Prepared, prepared
from adaspa.ops.hopper_eight.program import (
    REGISTERS,
    BlockDescriptor,
    Memory,
    N,
    load_keys,
    load_queries,
    load_query_scales,
    load_values,
    operand,
    softmax,
    start,
    start_scores,
    store_rows,
)
from adaspa.ops.triton.launch import Launcher

STAGES = 2  # tiles of keys and of values in shared memory


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
    load_queries(q_desc, buffers, work, D)
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
        load_keys(k_desc, buffers, stage, work, blocks, k_scale, D)
        mbarrier.wait(buffers.v_empty.index(stage), phase ^ 1)
        load_values(v_desc, buffers, stage, work, blocks, D)


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
    scores, k_scale = start_scores(q, buffers, 0, STAGES, s_layout, scales_layout)
    s = warpgroup_mma_wait(0, deps=[scores])
    mbarrier.arrive(buffers.k_empty.index(0), count=1)
    m_i = gl.full([64], float("-inf"), gl.float32, gl.SliceLayout(1, s_layout))
    seen = _masked(s.to(gl.float32), work, memory, tiles - 1, SPAN)
    p, l_i, m_i, alpha = softmax(seen, q_scale, k_scale, m_i, True)
    l_rows: gl.constexpr = gl.SliceLayout(1, l_i.type.layout)
    acc = nothing
    for j in range(1, tiles):
        stage = (j - 1) % STAGES
        p_operand = operand(p, p_layout)
        mbarrier.wait(buffers.pingpong_bars.index(HALF), ((j - 1) & 1) ^ (1 - HALF))
        mbarrier.wait(buffers.v_full.index(stage), ((j - 1) // STAGES) & 1)
        values = buffers.v.index(stage).permute([1, 0])
        product = warpgroup_mma(p_operand, values, nothing, use_acc=False, is_async=True)
        product = warpgroup_mma_wait(0, deps=[product])
        mbarrier.arrive(buffers.v_empty.index(stage), count=1)
        # Before the next scores begin: there are no registers for these, the product and its sum at once.
        acc = acc * gl.convert_layout(alpha, o_rows)[:, None] + product
        scores, k_scale = start_scores(q, buffers, j, STAGES, s_layout, scales_layout)
        mbarrier.arrive(buffers.pingpong_bars.index(1 - HALF), count=1)
        s = warpgroup_mma_wait(0, deps=[scores])
        mbarrier.arrive(buffers.k_empty.index(j % STAGES), count=1)
        p, sums, m_i, alpha = softmax(s, q_scale, k_scale, m_i, False)
        l_i = l_i * gl.convert_layout(alpha, l_rows)[:, None] + sums
    stage = (tiles - 1) % STAGES
    mbarrier.wait(buffers.v_full.index(stage), ((tiles - 1) // STAGES) & 1)
    product = warpgroup_mma(operand(p, p_layout), buffers.v.index(stage).permute([1, 0]), nothing, use_acc=False)
    acc = acc * gl.convert_layout(alpha, o_rows)[:, None] + product
    return acc, gl.convert_layout(gl.sum(l_i, 1), m_i.type.layout), m_i


@gluon.jit
def _attend(buffers, work, memory, D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr, HALF: gl.constexpr):
    """Attend 64 of the query rows, in a warpgroup of their own."""
    q_scale = load_query_scales(work, memory, HALF)
    mbarrier.wait(buffers.q_full.index(0), 0)
    acc, l_i, m_i = _walk(buffers, work, memory, q_scale, D, STAGES, SPAN, HALF)
    store_rows(acc, l_i, m_i, work, memory, D, HALF)


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
    buffers = start(q_desc, k_desc, v_desc, D, STAGES)
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
