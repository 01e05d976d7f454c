# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Query tiles of a program with the lists of their key blocks, and the warp that loads both."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

# Gluon's own name for it is private; its tutorials import it from here.
from triton.language.core import _aggregate as aggregate

from adaspa.ops.hopper.program import QUERY_TILE, is_void, overflowed
from adaspa.ops.hopper.tiles import load_blocks, load_queries


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
def blocks_of(ids, i, count, whole, SPAN: gl.constexpr):
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
def tiles_of(count, SPAN: gl.constexpr):
    """Tiles of 128 keys in a list; an empty one has a tile too, of which nothing is seen."""
    return gl.maximum(count if SPAN == 2 else (count + 1) // 2, 1)


@gluon.jit
def _load_list(k_desc, v_desc, buffers, work, base, D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr):
    """Load the keys and values of the list as stages become free; ``base`` tiles went through them before."""
    tiles = tiles_of(work.count, SPAN)
    first, second = blocks_of(work.ids, tiles - 1, work.count, work.whole, SPAN)
    for j in range(tiles):
        stage, phase = (base + j) % STAGES, ((base + j) // STAGES) & 1
        # The list is read one tile ahead: its latency would stall the loads.
        next_first, next_second = blocks_of(work.ids, gl.maximum(tiles - 2 - j, 0), work.count, work.whole, SPAN)
        mbarrier.wait(buffers.k_empty.index(stage), phase ^ 1)
        tile, bar = buffers.k.index(stage), buffers.k_full.index(stage)
        load_blocks(k_desc, tile, bar, work.batch, work.head, first * 64, second * 64, D)
        mbarrier.wait(buffers.v_empty.index(stage), phase ^ 1)
        tile, bar = buffers.v.index(stage), buffers.v_full.index(stage)
        load_blocks(v_desc, tile, bar, work.batch, work.head, first * 64, second * 64, D)
        first, second = next_first, next_second


@gluon.jit
def count_of(works, i, LISTED: gl.constexpr):
    """Count the key blocks that the ``i``-th query tile keeps; any number beyond the last one."""
    count = works.nk
    if LISTED:
        count = gl.load(works.counts + i, mask=i < works.total, other=0)
    return count


@gluon.jit
def work_of(works, i, count, LISTED: gl.constexpr):
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
    return n + 1, base + tiles_of(work.count, SPAN)


@gluon.jit
def load(
    q_desc, k_desc, v_desc, buffers, works, sequence, memory,
    D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr, LISTED: gl.constexpr,
):  # fmt: skip
    """Run the warp that loads: the query tiles of this program with their lists, and those that are void once more."""
    n, base = 0, 0
    for i in range(gl.program_id(0), works.total, gl.num_programs(0)):
        work = work_of(works, i, count_of(works, i, LISTED), LISTED)
        n, base = _load_work(q_desc, k_desc, v_desc, buffers, work, n, base, D, STAGES, SPAN)
    if overflowed(buffers, 1):
        for i in range(gl.program_id(0), works.total, gl.num_programs(0)):
            work = work_of(works, i, count_of(works, i, LISTED), LISTED)
            if is_void(memory, sequence, work):
                n, base = _load_work(q_desc, k_desc, v_desc, buffers, work, n, base, D, STAGES, SPAN)
                # After the wait for the queries before, so that no phase counts this warp twice.
                mbarrier.arrive(buffers.void_bar.index(0), count=1)
