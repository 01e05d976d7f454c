# ruff: noqa: SIM102 - a kernel takes its tensors and sizes one by one; an `if` of constants is its own
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Attention on Hopper GPUs: block-sparse, dense, and dense with block mass.

A query tile of 128 rows attends to a list of key blocks, 128 keys at a time: blocks of 64 that lie apart in memory come
to lie side by side in shared memory, so that the tensor cores see wide tiles whatever the pattern is. The list is
walked from its end, where the one block may be that is partial or has no neighbour; all others need no mask.

In bf16 and with a head_dim of 128, there are as many programs as the GPU can run at a time, and each takes query tiles
in turns: while the warpgroups end one, the warp that loads is at the next, so that short lists do not wait for the
memory. Elsewhere that was not timed, and each program has one query tile.

A row takes its exponents to the maximum of its first tile: a running maximum costs a tenth of the time. In bf16, whose
exponents reach as far as those of fp32, none is needed unless later scores exceed the first ones by more than
`HEADROOM` allows. Where they do, the query tile is void, and its program walks its list once more, with a running
maximum, when it is through with all others. fp16 ends at 2**16: there the warpgroup looks at the sums of each tile
while it multiplies the next one, and takes the exponents anew from where they came too far (`_walk_guarded`); that
costs half of a running maximum, and no list is walked twice. The two warpgroups take turns at the tensor cores, or both
would come to do their exponentials at the same time.
"""

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

# Gluon's own name for it is private; its tutorials import it from here.
from triton.language.core import _aggregate as aggregate

from adaspa.index import BlockIndex, num_blocks
from adaspa.ops.device import unit_stride
from adaspa.ops.hopper.program import (
    HEADROOM,
    QUERY_TILE,
    REGISTERS,
    STAGES,
    START,
    Memory,
    Sequence,
    is_void,
    overflowed,
    start,
    store_rows,
)
from adaspa.ops.hopper.tiles import (
    KEYS,
    STRIP,
    load_blocks,
    load_queries,
    merge_strips,
    panels,
    start_scores,
)
from adaspa.ops.triton.launch import Launch, Launcher
from adaspa.ops.triton.tiles import LOG2_E

IN_TURNS = (torch.bfloat16, 128)  # dtype and head_dim with which a program takes several query tiles
# In fp16 the largest exponential is 2**-GUARDED_START when a row's exponents are taken anew, and its sum over a tile
# stays below 2**LIMIT: scores may rise by 12, and what is far below the largest keeps its precision.
GUARDED_START, LIMIT = gl.constexpr(3.0), gl.constexpr(15.0)


@aggregate
class Work:
    """Query tile: its rows, and the list of their key blocks."""

    batch: gl.tensor
    head: gl.tensor
    row_of_heads: gl.tensor
    """``batch * heads + head``."""
    first_row: gl.tensor
    ids: gl.tensor
    count: gl.tensor
    whole: gl.tensor
    """True if all key blocks are kept, so that ``ids`` is not read."""

    @gluon.constexpr_function
    def __init__(self, batch, head, row_of_heads, first_row, ids, count, whole):
        self.batch, self.head, self.row_of_heads, self.first_row = batch, head, row_of_heads, first_row
        self.ids, self.count, self.whole = ids, count, whole


@aggregate
class Works:
    """Query tiles of the whole call."""

    total: gl.tensor
    heads: gl.tensor
    tiles: gl.tensor
    """Query tiles of a head."""
    ids: gl.tensor
    counts: gl.tensor
    width: gl.tensor
    nk: gl.tensor

    @gluon.constexpr_function
    def __init__(self, total, heads, tiles, ids, counts, width, nk):
        self.total, self.heads, self.tiles = total, heads, tiles
        self.ids, self.counts, self.width, self.nk = ids, counts, width, nk


@gluon.jit
def _pair(ids, i, count, whole, SPAN: gl.constexpr):
    """Find the two blocks of 64 keys that make the ``i``-th tile of a list; the last of an odd list comes twice."""
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
def _load_list(k_desc, v_desc, buffers, work, base, D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr):
    """Load the keys and values of the list as stages become free; ``base`` tiles went through them before."""
    tiles = _tiles_of(work.count, SPAN)
    first, second = _pair(work.ids, tiles - 1, work.count, work.whole, SPAN)
    for j in range(tiles):
        stage, phase = (base + j) % STAGES, ((base + j) // STAGES) & 1
        # The list is read one tile ahead: its latency would stall the loads.
        next_first, next_second = _pair(work.ids, gl.maximum(tiles - 2 - j, 0), work.count, work.whole, SPAN)
        mbarrier.wait(buffers.k_empty.index(stage), phase ^ 1)
        tile, bar = buffers.k.index(stage), buffers.k_full.index(stage)
        load_blocks(k_desc, tile, bar, work.batch, work.head, first * 64, second * 64, D)
        mbarrier.wait(buffers.v_empty.index(stage), phase ^ 1)
        tile, bar = buffers.v.index(stage), buffers.v_full.index(stage)
        load_blocks(v_desc, tile, bar, work.batch, work.head, first * 64, second * 64, D)
        first, second = next_first, next_second


@gluon.jit
def _count(works, i, LISTED: gl.constexpr):
    """Count the key blocks that the ``i``-th query tile keeps; any number beyond the last one."""
    count = works.nk
    if LISTED:
        count = gl.load(works.counts + i, mask=i < works.total, other=0)
    return count


@gluon.jit
def _work(works, i, count, LISTED: gl.constexpr):
    head, tile = i // works.tiles, i % works.tiles
    ids = works.ids
    if LISTED:
        ids += i.to(gl.int64) * works.width
    return Work(head // works.heads, head % works.heads, head, tile * QUERY_TILE, ids, count, count == works.nk)


@gluon.jit
def _load_work(
    q_desc, k_desc, v_desc, buffers, work, n, base, D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr
):
    """Load the ``n``-th query tile of this program and its list; ``base`` tiles of keys went through before."""
    mbarrier.wait(buffers.q_empty.index(0), (n & 1) ^ 1)
    load_queries(q_desc, buffers.q, buffers.q_full.index(0), work.batch, work.head, work.first_row, D)
    _load_list(k_desc, v_desc, buffers, work, base, D, STAGES, SPAN)
    return n + 1, base + _tiles_of(work.count, SPAN)


@gluon.jit
def _load(
    q_desc, k_desc, v_desc, buffers, works, sequence, memory,
    D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr, LISTED: gl.constexpr, GUARDED: gl.constexpr,
):  # fmt: skip
    """Run the warp that loads: the query tiles of this program with their lists, and those that are void once more."""
    n, base = 0, 0
    for i in range(gl.program_id(0), works.total, gl.num_programs(0)):
        work = _work(works, i, _count(works, i, LISTED), LISTED)
        n, base = _load_work(q_desc, k_desc, v_desc, buffers, work, n, base, D, STAGES, SPAN)
    if not GUARDED:
        if overflowed(buffers, 1):
            for i in range(gl.program_id(0), works.total, gl.num_programs(0)):
                work = _work(works, i, _count(works, i, LISTED), LISTED)
                if is_void(memory, sequence, work):
                    n, base = _load_work(q_desc, k_desc, v_desc, buffers, work, n, base, D, STAGES, SPAN)
                    # After the wait for the queries before, so that no phase counts this warp twice.
                    mbarrier.arrive(buffers.void_bar.index(0), count=1)


@gluon.jit
def _row_sums(p, m_i, cached, BLOCK_MASS: gl.constexpr):
    """Sum the rows of ``p [64, 128]``; taken to the cached LSE, what lanes hold of the mass of two key blocks."""
    if BLOCK_MASS:
        halves = gl.sum(gl.reshape(p, [64, 2, 64]), 2)
        # In two steps, of which none overflows unless the cached LSE is 120 too low.
        factor = gl.convert_layout(gl.exp2((m_i - cached) * 0.5), gl.SliceLayout(1, halves.type.layout))[:, None]
        # Rows 8 apart are in one lane.
        mass = gl.sum(gl.reshape(halves * factor * factor, [64 // STRIP, 2, 8, 2]), 1)
        sums = gl.convert_layout(gl.sum(halves, 1), gl.SliceLayout(1, p.type.layout))
    else:
        sums = gl.sum(p, 1)
        mass = sums
    return sums, mass


@gluon.jit
def _store_mass(mass, memory, work, sequence, first_row, key_block, BLOCK_MASS: gl.constexpr):
    """Add up and store the mass of a tile: while the next one is multiplied, because that takes long."""
    if BLOCK_MASS:
        mass = gl.sum(mass, 1)
        strip = first_row // STRIP + gl.arange(0, 64 // STRIP, layout=gl.SliceLayout(1, mass.type.layout))
        column = gl.arange(0, 2, layout=gl.SliceLayout(0, mass.type.layout))
        row = work.row_of_heads.to(gl.int64) * sequence.strips + strip.to(gl.int64)
        gl.store(memory.block_mass + row[:, None] * _tile_blocks(sequence.nk) + column[None, :] + key_block, mass)


@gluon.jit
def _tile_blocks(nk):
    """Key blocks of all tiles: one more than there are if their number is odd."""
    return (nk + 1) // 2 * 2


@gluon.jit
def _masked(s, first, second, work, sequence, tiles, SPAN: gl.constexpr):
    """Mask the scores of the last tile of the list, of these two blocks, with minus infinity if there is no key."""
    column = gl.arange(0, 128, layout=gl.SliceLayout(0, s.type.layout))
    key = gl.where(column < 64, first * 64, second * 64) + column % 64
    listed = (work.count > 0) if SPAN == 2 else 2 * (tiles - 1) + column // 64 < work.count
    return gl.where((listed & (key < sequence.k_tokens))[None, :], s, float("-inf"))


@gluon.jit
def _walk(  # noqa: PLR0915 - the order of waits and products is one thing
    buffers, work, sequence, memory, q, cached, base, turns, D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr,
    BLOCK_MASS: gl.constexpr, RUNNING: gl.constexpr, HALF: gl.constexpr,
):  # fmt: skip
    """Walk over all tiles of the list for 64 query rows: output, sums, and what the exponents were taken to.

    This program had ``base`` tiles and ``turns`` at the tensor cores before.
    """
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
    dtype: gl.constexpr = buffers.k.dtype
    scale = sequence.scale
    first_row = work.first_row + HALF * 64
    tiles = _tiles_of(work.count, SPAN)

    # The last tile of the list comes first, with its mask.
    first, second = _pair(work.ids, tiles - 1, work.count, work.whole, SPAN)
    s = warpgroup_mma_wait(0, deps=[start_scores(q, buffers.k, buffers.k_full, base, STAGES, s_layout)])
    mbarrier.arrive(buffers.k_empty.index(base % STAGES), count=1)
    s = _masked(s, first, second, work, sequence, tiles, SPAN)
    m_i = gl.max(s, 1) * scale
    if not RUNNING:
        m_i = gl.where(m_i == float("-inf"), 0.0, m_i) + START
    p = gl.exp2(s * scale - gl.where(m_i == float("-inf"), 0.0, m_i)[:, None])
    l_i, mass = _row_sums(p, m_i, cached, BLOCK_MASS)
    if BLOCK_MASS:
        p = p.to(dtype)  # there are no registers to take 32 bits to the next tile
    acc = gl.zeros([64, D], gl.float32, o_layout)
    for j in range(1, tiles):
        stage = (base + j - 1) % STAGES
        p_operand = gl.convert_layout(p.to(dtype), p_layout)
        if not RUNNING:
            mbarrier.wait(buffers.pingpong_bars.index(HALF), ((turns + j - 1) & 1) ^ (1 - HALF))
        scores = start_scores(q, buffers.k, buffers.k_full, base + j, STAGES, s_layout)
        mbarrier.wait(buffers.v_full.index(stage), ((base + j - 1) // STAGES) & 1)
        product = warpgroup_mma(p_operand, buffers.v.index(stage), acc, is_async=True)
        if not RUNNING:
            mbarrier.arrive(buffers.pingpong_bars.index(1 - HALF), count=1)
        _store_mass(mass, memory, work, sequence, first_row, 2 * (tiles - j), BLOCK_MASS)
        s = warpgroup_mma_wait(1, deps=[scores])
        mbarrier.arrive(buffers.k_empty.index((base + j) % STAGES), count=1)
        if RUNNING:
            m_new = gl.maximum(m_i, gl.max(s, 1) * scale)
            alpha = gl.exp2(m_i - m_new)
            m_i, l_i = m_new, l_i * alpha
        p = gl.exp2(s * scale - m_i[:, None])
        sums, mass = _row_sums(p, m_i, cached, BLOCK_MASS)
        l_i += sums
        if BLOCK_MASS:
            p = p.to(dtype)
        acc = warpgroup_mma_wait(0, deps=[product])
        mbarrier.arrive(buffers.v_empty.index(stage), count=1)
        if RUNNING:
            acc = acc * gl.convert_layout(alpha, gl.SliceLayout(1, o_layout))[:, None]
    mbarrier.arrive(buffers.q_empty.index(0), count=1)
    stage = (base + tiles - 1) % STAGES
    mbarrier.wait(buffers.v_full.index(stage), ((base + tiles - 1) // STAGES) & 1)
    _store_mass(mass, memory, work, sequence, first_row, 0, BLOCK_MASS)
    p_operand = gl.convert_layout(p.to(dtype), p_layout)
    acc = warpgroup_mma(p_operand, buffers.v.index(stage), acc)
    mbarrier.arrive(buffers.v_empty.index(stage), count=1)
    return acc, l_i, m_i


@gluon.jit
def _repaired(
    buffers, sequence, q, cached, j, acc, l_i, m_i, STAGES: gl.constexpr, BLOCK_MASS: gl.constexpr
):  # fmt: skip
    """Repeat the ``j``-th tile with exponents to a maximum that it does not exceed, and what came before it."""
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16])
    s = warpgroup_mma_wait(0, deps=[start_scores(q, buffers.k, buffers.k_full, j, STAGES, s_layout)])
    m_new = gl.maximum(m_i, gl.max(s, 1) * sequence.scale + GUARDED_START)
    alpha = gl.exp2(m_i - m_new)
    acc = acc * gl.convert_layout(alpha, gl.SliceLayout(1, acc.type.layout))[:, None]
    p = gl.exp2(s * sequence.scale - m_new[:, None])
    sums, mass = _row_sums(p, m_new, cached, BLOCK_MASS)
    return acc, l_i * alpha, m_new, p, sums, mass


@gluon.jit
def _walk_guarded(  # noqa: PLR0915 - the order of waits and products is one thing
    buffers, work, sequence, memory, q, cached, base, turns, D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr,
    BLOCK_MASS: gl.constexpr, HALF: gl.constexpr,
):  # fmt: skip
    """Walk like `_walk`, but recompute exponents if a tile's sums exceed the limit."""
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
    v_layout: gl.constexpr = gl.BlockedLayout([4], [32], [4], [0])
    dtype: gl.constexpr = buffers.k.dtype
    scale = sequence.scale
    first_row = work.first_row + HALF * 64
    tiles = _tiles_of(work.count, SPAN)
    votes = buffers.votes.slice(HALF * 4, 4)

    first, second = _pair(work.ids, tiles - 1, work.count, work.whole, SPAN)
    s = warpgroup_mma_wait(0, deps=[start_scores(q, buffers.k, buffers.k_full, base, STAGES, s_layout)])
    s = _masked(s, first, second, work, sequence, tiles, SPAN)
    m_i = gl.max(s, 1) * scale
    m_i = gl.where(m_i == float("-inf"), 0.0, m_i) + GUARDED_START
    p = gl.exp2(s * scale - m_i[:, None])
    sums, mass = _row_sums(p, m_i, cached, BLOCK_MASS)
    l_i = gl.zeros_like(sums)
    acc = gl.zeros([64, D], gl.float32, o_layout)
    votes.store(gl.full([4], 0, gl.int32, v_layout))
    for j in range(1, tiles):
        stage = (base + j - 1) % STAGES
        mbarrier.wait(buffers.pingpong_bars.index(HALF), ((turns + j - 1) & 1) ^ (1 - HALF))
        scores = start_scores(q, buffers.k, buffers.k_full, base + j, STAGES, s_layout)
        # While these are multiplied, the warps look at their votes on the tile before.
        if gl.max(votes.load(v_layout), 0) > 0:
            warpgroup_mma_wait(0, deps=[scores])
            acc, l_i, m_i, p, sums, mass = _repaired(
                buffers, sequence, q, cached, base + j - 1, acc, l_i, m_i, STAGES, BLOCK_MASS
            )  # fmt: skip
            scores = start_scores(q, buffers.k, buffers.k_full, base + j, STAGES, s_layout)
        l_i += sums
        p_operand = gl.convert_layout(p.to(dtype), p_layout)
        mbarrier.wait(buffers.v_full.index(stage), ((base + j - 1) // STAGES) & 1)
        product = warpgroup_mma(p_operand, buffers.v.index(stage), acc, is_async=True)
        mbarrier.arrive(buffers.pingpong_bars.index(1 - HALF), count=1)
        mbarrier.arrive(buffers.k_empty.index(stage), count=1)
        _store_mass(mass, memory, work, sequence, first_row, 2 * (tiles - j), BLOCK_MASS)
        s = warpgroup_mma_wait(1, deps=[scores])
        p = gl.exp2(s * scale - m_i[:, None])
        sums, mass = _row_sums(p, m_i, cached, BLOCK_MASS)
        # Sums that are not numbers would stay so with another maximum, too.
        votes.store(gl.max(gl.reshape(gl.where(sums >= gl.exp2(LIMIT), 1, 0), [4, 16]), 1))
        acc = warpgroup_mma_wait(0, deps=[product])
        mbarrier.arrive(buffers.v_empty.index(stage), count=1)
    if gl.max(votes.load(v_layout), 0) > 0:
        acc, l_i, m_i, p, sums, mass = _repaired(
            buffers, sequence, q, cached, base + tiles - 1, acc, l_i, m_i, STAGES, BLOCK_MASS
        )  # fmt: skip
    l_i += sums
    _store_mass(mass, memory, work, sequence, first_row, 0, BLOCK_MASS)
    stage = (base + tiles - 1) % STAGES
    mbarrier.arrive(buffers.k_empty.index(stage), count=1)
    mbarrier.arrive(buffers.q_empty.index(0), count=1)
    mbarrier.wait(buffers.v_full.index(stage), ((base + tiles - 1) // STAGES) & 1)
    p_operand = gl.convert_layout(p.to(dtype), p_layout)
    acc = warpgroup_mma(p_operand, buffers.v.index(stage), acc)
    mbarrier.arrive(buffers.v_empty.index(stage), count=1)
    return acc, l_i, m_i


@gluon.jit
def _cached_lse(memory, sequence, work, BLOCK_MASS: gl.constexpr, HALF: gl.constexpr):
    """Load the cached LSE of 64 query rows, in powers of two."""
    layout: gl.constexpr = gl.SliceLayout(1, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16]))
    cached = gl.zeros([64], gl.float32, layout)
    if BLOCK_MASS:
        row = work.first_row + HALF * 64 + gl.arange(0, 64, layout=layout)
        at = memory.cached_lse + work.row_of_heads.to(gl.int64) * sequence.q_tokens
        # Rows beyond the sequence weigh nothing: exp2(x - inf) = 0.
        cached = gl.load(at + row, mask=row < sequence.q_tokens, other=float("inf")) * LOG2_E
    return cached


@gluon.jit
def _attend(
    buffers, works, sequence, memory, D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr,
    LISTED: gl.constexpr, BLOCK_MASS: gl.constexpr, GUARDED: gl.constexpr, HALF: gl.constexpr,
):  # fmt: skip
    """Run the warpgroup of 64 of the rows of each query tile."""
    q = buffers.q.index(HALF)
    step = gl.num_programs(0)
    n, base, turns, overflow = 0, 0, 0, 0
    next_count = _count(works, gl.program_id(0), LISTED)
    for i in range(gl.program_id(0), works.total, step):
        work = _work(works, i, next_count, LISTED)
        # Read one query tile ahead: its latency would stall the products.
        next_count = _count(works, i + step, LISTED)
        cached = _cached_lse(memory, sequence, work, BLOCK_MASS, HALF)
        mbarrier.wait(buffers.q_full.index(0), n & 1)
        if GUARDED:
            acc, l_i, m_i = _walk_guarded(
                buffers, work, sequence, memory, q, cached, base, turns, D, STAGES, SPAN, BLOCK_MASS, HALF
            )  # fmt: skip
            void = 0
        else:
            acc, l_i, m_i = _walk(
                buffers, work, sequence, memory, q, cached, base, turns, D, STAGES, SPAN, BLOCK_MASS, False, HALF
            )  # fmt: skip
            # Sums that are not numbers would stay so with a running maximum, too.
            void = gl.max(gl.where(l_i >= gl.exp2(HEADROOM), 1, 0), 0)
            overflow = gl.maximum(overflow, void)
        store_rows(acc, l_i, m_i, void > 0, buffers, work, sequence, memory, D, HALF)
        tiles = _tiles_of(work.count, SPAN)
        n, base, turns = n + 1, base + tiles, turns + tiles - 1
    if not GUARDED:
        buffers.overflow_flag.slice(HALF, 1).store(
            gl.full([1], overflow, gl.int32, gl.BlockedLayout([1], [32], [4], [0]))
        )
        mbarrier.arrive(buffers.overflow_bar.index(0), count=1)
        if overflowed(buffers, 4):
            _attend_again(
                buffers, works, sequence, memory, q, n, base, D, STAGES, SPAN, LISTED, BLOCK_MASS, HALF
            )  # fmt: skip


@gluon.jit
def _attend_again(
    buffers, works, sequence, memory, q, n, base, D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr,
    LISTED: gl.constexpr, BLOCK_MASS: gl.constexpr, HALF: gl.constexpr,
):  # fmt: skip
    """Walk the lists of the query tiles that were left void once more, with a running maximum."""
    again = 0
    for i in range(gl.program_id(0), works.total, gl.num_programs(0)):
        work = _work(works, i, _count(works, i, LISTED), LISTED)
        if is_void(memory, sequence, work):
            mbarrier.arrive(buffers.void_bar.index(0), count=1)
            cached = _cached_lse(memory, sequence, work, BLOCK_MASS, HALF)
            mbarrier.wait(buffers.q_full.index(0), n & 1)
            acc, l_i, m_i = _walk(
                buffers, work, sequence, memory, q, cached, base, 0, D, STAGES, SPAN, BLOCK_MASS, True, HALF
            )  # fmt: skip
            mbarrier.wait(buffers.void_bar.index(0), again & 1)
            store_rows(acc, l_i, m_i, False, buffers, work, sequence, memory, D, HALF)
            n, base, again = n + 1, base + _tiles_of(work.count, SPAN), again + 1


@gluon.jit(do_not_specialize=["works", "heads", "q_tokens", "k_tokens", "strips", "nk", "tiles", "width"])
def attention_kernel(
    q_desc, k_desc, v_desc, ids, counts, out, lse, cached_lse, block_mass, stride_b, stride_h, stride,
    works, heads, q_tokens, k_tokens, strips, nk, tiles, width, scale,
    D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr, LISTED: gl.constexpr, BLOCK_MASS: gl.constexpr,
    GUARDED: gl.constexpr,
):  # fmt: skip
    works = Works(works, heads, tiles, ids, counts, width, nk)
    sequence = Sequence(q_tokens, k_tokens, strips, nk, scale)
    memory = Memory(out, lse, cached_lse, block_mass, stride_b, stride_h, stride)
    buffers = start(q_desc.dtype, D, STAGES, 1)
    gl.warp_specialize(
        [
            (_attend, (buffers, works, sequence, memory, D, STAGES, SPAN, LISTED, BLOCK_MASS, GUARDED, 0)),
            (_attend, (buffers, works, sequence, memory, D, STAGES, SPAN, LISTED, BLOCK_MASS, GUARDED, 1)),
            (_load, (q_desc, k_desc, v_desc, buffers, works, sequence, memory, D, STAGES, SPAN, LISTED, GUARDED)),
        ],
        [4, 1],
        [240, 24],
    )


launch_attention = Launcher(attention_kernel)


def block_sparse_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, index: BlockIndex, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and LSE over the listed key blocks, of query blocks of 128 and key blocks of 64 or 128."""
    assert index.query_block == QUERY_TILE.value, "`takes` has no others"
    q, k, v = unit_stride(q), unit_stride(k), unit_stride(v)
    out, lse = torch.empty_like(q), torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    _launch(q, k, v, out, lse, scale, index=index)
    return out, lse


def dense_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and LSE over all keys."""
    q, k, v = unit_stride(q), unit_stride(k), unit_stride(v)
    out, lse = torch.empty_like(q), torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    _launch(q, k, v, out, lse, scale)
    return out, lse


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """Output over all keys."""
    return dense_attention(q, k, v, scale)[0]


def attention_with_block_mass(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cached_lse: torch.Tensor,
    query_block: int,
    key_block: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Dense output, block mass from the cached LSE, and LSE; the blocks are multiples of 16 rows and of 64 keys."""
    q, k, v = unit_stride(q), unit_stride(k), unit_stride(v)
    out, lse = torch.empty_like(q), torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    query_blocks, strips = num_blocks(q.shape[2], query_block), query_block // STRIP.value
    query_tiles, key_blocks = num_blocks(q.shape[2], QUERY_TILE.value), num_blocks(k.shape[2], KEYS)
    # Of whole tiles, so that none of them asks what is there.
    shape = (*q.shape[:2], query_tiles * QUERY_TILE.value // STRIP.value, key_blocks + key_blocks % 2)
    block_mass = torch.empty(shape, dtype=torch.float32, device=q.device)
    _launch(q, k, v, out, lse, scale, cached_lse=cached_lse.float().contiguous(), block_mass=block_mass)
    block_mass = block_mass[:, :, : query_blocks * strips, :key_blocks]
    return out, merge_strips(block_mass, strips, query_blocks, key_block // KEYS), lse


def _launch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    scale: float,
    *,
    index: BlockIndex | None = None,
    cached_lse: torch.Tensor | None = None,
    block_mass: torch.Tensor | None = None,
) -> None:
    # What a variant does not read is given as ``lse``, so that each has the one signature.
    ids, counts, span, width = lse, lse, 1, 0
    if index is not None:
        ids, counts, span = index.ids.contiguous(), index.counts.contiguous(), index.key_block // KEYS
        width = ids.shape[3]
    cached, mass = (lse if x is None else x for x in (cached_lse, block_mass))
    strips = 0 if block_mass is None else block_mass.shape[2]

    def launch() -> Launch:
        batch, heads, tokens, dim = q.shape
        tiles, nk = num_blocks(tokens, QUERY_TILE.value), num_blocks(k.shape[2], KEYS * span)
        works = batch * heads * tiles
        sizes = (*out.stride()[:3], works, heads, tokens, k.shape[2], strips, nk, tiles, width, scale * LOG2_E.value)
        constants = {"D": dim, "STAGES": STAGES[dim], "SPAN": span, "LISTED": width > 0, "BLOCK_MASS": strips > 0}
        constants |= {"GUARDED": q.dtype != torch.bfloat16} | REGISTERS
        # A processor has registers for one program.
        processors = torch.cuda.get_device_properties(q.device).multi_processor_count
        programs = min(works, processors) if (q.dtype, dim) == IN_TURNS else works
        return Launch((programs, 1, 1), sizes, constants)

    kind = (q.dtype, q.shape, k.shape, out.stride(), span, width, strips, scale)
    data = (panels(q), panels(k), panels(v), ids, counts, out, lse, cached, mass)
    launch_attention.as_before(kind, data, launch)
