# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Block-sparse attention on Hopper GPUs in query blocks of 64 rows, two neighbours to a program.

As in `adaspa.ops.hopper.attention`, two warpgroups attend to tiles of 128 keys, but each has a query block of its own,
with a list of its own. One warp loads keys, and one values. The lists of neighbours are much alike. What both keep
is loaded once and serves both; what one keeps serves that one, and the other lets it pass. `pair_lists` puts the blocks
of a list that its neighbour lacks in front of those that both keep.

A program goes by rounds, in each of which both warpgroups have a tile: one that both keep, or one each that it keeps
alone. Those come from the end, where the one block may be that is partial or has no neighbour, and in between the
others, because they ask twice as much of the memory. The warpgroup with fewer tiles lets the first rounds pass.

There are as many programs as the GPU can run at a time. They take pairs in turns, and the last quarter from a counter
(`turns`).
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
from adaspa.ops.hopper.pair_lists import OWN, pair_lists
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
from adaspa.ops.hopper.tiles import load_blocks, panels, start_scores
from adaspa.ops.hopper.turns import load_told, previous, programs_for, take_next, tell_end, told, turns
from adaspa.ops.triton.launch import Launch, Launcher
from adaspa.ops.triton.tiles import LOG2_E

QUERY_BLOCK = 64


@aggregate
class Pair:
    """Two query blocks, and the lists of their key blocks."""

    batch: gl.tensor
    head: gl.tensor
    row_of_heads: gl.tensor
    """``batch * heads + head``."""
    first_row: gl.tensor
    ids: gl.tensor
    """List of the first one, which that of the second one follows."""
    width: gl.tensor
    nk: gl.tensor
    own_0: gl.tensor
    """Blocks that only the first one keeps."""
    own_1: gl.tensor
    tiles_0: gl.tensor
    """Tiles of those; an empty list has a tile too, of which nothing is seen."""
    tiles_1: gl.tensor
    shared: gl.tensor
    """Tiles that both keep."""

    @gluon.constexpr_function
    def __init__(self, batch, head, row_of_heads, first_row, ids, width, nk, own_0, own_1, tiles_0, tiles_1, shared):
        self.batch, self.head, self.row_of_heads, self.first_row = batch, head, row_of_heads, first_row
        self.ids, self.width, self.nk = ids, width, nk
        self.own_0, self.own_1 = own_0, own_1
        self.tiles_0, self.tiles_1, self.shared = tiles_0, tiles_1, shared


@aggregate
class Pairs:
    """Pairs of the whole call."""

    total: gl.tensor
    heads: gl.tensor
    tiles: gl.tensor
    """Pairs of a head."""
    ids: gl.tensor
    sizes: gl.tensor
    width: gl.tensor
    nq: gl.tensor
    nk: gl.tensor
    fixed: gl.tensor
    """Pairs that programs have in turns; they take the rest from a counter."""
    order: gl.tensor
    """Counter of those, and for each of them the pair that its program had before."""

    @gluon.constexpr_function
    def __init__(self, total, heads, tiles, ids, sizes, width, nq, nk, fixed, order):
        self.total, self.heads, self.tiles = total, heads, tiles
        self.ids, self.sizes, self.width, self.nq, self.nk = ids, sizes, width, nq, nk
        self.fixed, self.order = fixed, order


@gluon.jit
def _sizes(pairs, i):
    """Load the sizes of both lists of the ``i``-th pair; any beyond the last one."""
    there = i < pairs.total
    return gl.load(pairs.sizes + 2 * i, mask=there, other=0), gl.load(pairs.sizes + 2 * i + 1, mask=there, other=0)


@gluon.jit
def _pair(pairs, i, size_0, size_1):
    head, tile = i // pairs.tiles, i % pairs.tiles
    ids = pairs.ids + (head.to(gl.int64) * pairs.nq + 2 * tile) * pairs.width
    own_0, own_1 = size_0 // OWN, size_1 // OWN
    shared = (size_0 % OWN - own_0) // 2
    least = gl.where(shared == 0, 1, 0)
    tiles_0, tiles_1 = gl.maximum((own_0 + 1) // 2, least), gl.maximum((own_1 + 1) // 2, least)
    return Pair(
        head // pairs.heads, head % pairs.heads, head, tile * QUERY_TILE, ids, pairs.width, pairs.nk,
        own_0, own_1, tiles_0, tiles_1, shared,
    )  # fmt: skip


@gluon.jit
def _pair_at(pairs, i):
    size_0, size_1 = _sizes(pairs, i)
    return _pair(pairs, i, size_0, size_1)


@gluon.jit
def _block(pair, half, own, place):
    """Return the block of keys at a place of one of the lists, of which the neighbour lacks the first ``own`` ones."""
    count = own + 2 * pair.shared
    whole = count == pair.nk
    listed = gl.load(pair.ids + half * pair.width + place, mask=(place < count) & ~whole, other=0).to(gl.int32)
    return gl.where(whole, gl.where(place < own, place + 2 * pair.shared, place - own), listed)


@gluon.jit
def _tiles(pair):
    """Count the tiles that are loaded for a pair."""
    return pair.tiles_0 + pair.tiles_1 + pair.shared


@gluon.jit
def _rounds(pair):
    return gl.maximum(pair.tiles_0, pair.tiles_1) + pair.shared


@gluon.jit
def _is_apart(pair, r, before):
    """Tell whether each has a tile of its own in a round, ``before`` of which came before it.

    They come between the tiles that both keep, because they ask twice as much of the memory.
    """
    both = gl.minimum(pair.tiles_0, pair.tiles_1)
    turn = r - (gl.maximum(pair.tiles_0, pair.tiles_1) - both)
    return gl.where((turn >= 0) & ((turn + 1) * both > before * (both + pair.shared)), 1, 0)


@gluon.jit
def _loaded(pair, r, before, half, apart):
    """Return the two blocks that are loaded in a round, those of one of the two if they have tiles of their own."""
    longer, both = gl.maximum(pair.tiles_0, pair.tiles_1), gl.minimum(pair.tiles_0, pair.tiles_1)
    passing = r < longer - both
    half = gl.where(passing, gl.where(pair.tiles_1 > pair.tiles_0, 1, 0), half)
    own = gl.where(half == 0, pair.own_0, pair.own_1)
    alone = passing | (apart == 1)
    i = gl.where(passing, longer - 1 - r, both - 1 - before)
    first = gl.where(alone, 2 * i, own + 2 * (pair.shared - 1 - (r - (longer - both) - before)))
    first = gl.maximum(first, 0)  # beyond the last round
    second = gl.where(alone, gl.minimum(first + 1, gl.maximum(own - 1, 0)), first + 1)
    return _block(pair, half, own, first), _block(pair, half, own, second)


@gluon.jit
def _load_lists(desc, tiles, full, empty, pair, base, D: gl.constexpr, STAGES: gl.constexpr):
    """Load the keys or the values of a pair; ``base`` tiles went through before."""
    count = _tiles(pair)
    r, before, half = 0, 0, 0
    apart = _is_apart(pair, r, before)
    first, second = _loaded(pair, r, before, half, apart)
    for t in range(count):
        stage, phase = (base + t) % STAGES, ((base + t) // STAGES) & 1
        # The lists are read one tile ahead: their latency would stall the loads.
        ended = (half == 1) | (apart == 0)
        r, before = gl.where(ended, r + 1, r), gl.where(ended, before + apart, before)
        half = gl.where(ended, 0, 1)
        apart = _is_apart(pair, r, before)
        next_first, next_second = _loaded(pair, r, before, half, apart)
        mbarrier.wait(empty.index(stage), phase ^ 1)
        load_blocks(
            desc, tiles.index(stage), full.index(stage), pair.batch, pair.head, first * 64, second * 64, D
        )  # fmt: skip
        first, second = next_first, next_second
    return base + count


@gluon.jit
def _load_keys(
    q_desc, k_desc, buffers, pairs, sequence, memory, D: gl.constexpr, STAGES: gl.constexpr
):  # fmt: skip
    """Run the warp that loads queries and keys: of the pairs of this program, and of those that are void once more."""
    n, base, last = 0, 0, -1
    i = gl.program_id(0)
    size_0, size_1 = _sizes(pairs, i)
    while i < pairs.total:
        pair = _pair(pairs, i, size_0, size_1)
        load_told(q_desc, buffers, pair, i, size_0, size_1, n, D)
        base = _load_lists(k_desc, buffers.k, buffers.k_full, buffers.k_empty, pair, base, D, STAGES)
        n, last = n + 1, i
        # While the warpgroups are at the last tiles, so that nothing waits for it.
        i = take_next(pairs, i)
        size_0, size_1 = _sizes(pairs, i)
    tell_end(buffers, pairs.total, last, n)
    n += 1
    if overflowed(buffers, 1):
        i = last
        while i >= 0:
            size_0, size_1 = _sizes(pairs, i)
            pair = _pair(pairs, i, size_0, size_1)
            if is_void(memory, sequence, pair):
                load_told(q_desc, buffers, pair, i, size_0, size_1, n, D)
                base = _load_lists(k_desc, buffers.k, buffers.k_full, buffers.k_empty, pair, base, D, STAGES)
                n += 1
                # After the wait for the queries before, so that no phase counts this warp twice.
                mbarrier.arrive(buffers.void_bar.index(0), count=1)
            i = previous(pairs, i)


@gluon.jit
def _load_values(v_desc, buffers, pairs, sequence, memory, D: gl.constexpr, STAGES: gl.constexpr):
    """Run the warp that loads values. Keys need not wait until there is room for the values before them."""
    n, base, again = 0, 0, 0
    i, size_0, size_1 = told(buffers, n, 1)
    mbarrier.arrive(buffers.q_empty.index(0), count=1)
    while i < pairs.total:
        pair = _pair(pairs, i, size_0, size_1)
        base = _load_lists(v_desc, buffers.v, buffers.v_full, buffers.v_empty, pair, base, D, STAGES)
        n += 1
        i, size_0, size_1 = told(buffers, n, 1)
        mbarrier.arrive(buffers.q_empty.index(0), count=1)
    if overflowed(buffers, 1):
        i = size_0
        while i >= 0:
            pair = _pair_at(pairs, i)
            if is_void(memory, sequence, pair):
                n += 1
                mbarrier.wait(buffers.q_full.index(0), n & 1)
                mbarrier.arrive(buffers.q_empty.index(0), count=1)
                base = _load_lists(v_desc, buffers.v, buffers.v_full, buffers.v_empty, pair, base, D, STAGES)
                mbarrier.arrive(buffers.void_bar.index(0), count=1)
                mbarrier.wait(buffers.void_bar.index(0), again & 1)
                again += 1
            i = previous(pairs, i)


@gluon.jit
def _await(full, slot, STAGES: gl.constexpr):
    """Wait until a tile of this program is in shared memory."""
    mbarrier.wait(full.index(slot % STAGES), (slot // STAGES) & 1)


@gluon.jit
def _free(empty, slot, STAGES: gl.constexpr):
    """Say that this warpgroup is through with a tile."""
    mbarrier.arrive(empty.index(slot % STAGES), count=1)


@gluon.jit
def _pass(full, empty, slot, STAGES: gl.constexpr):
    """Let the other one's tile pass: free it as soon as it is there, so that no phase counts this warpgroup twice."""
    _await(full, slot, STAGES)
    _free(empty, slot, STAGES)


@gluon.jit
def _await_turn(buffers, turn, HALF: gl.constexpr):
    """Wait for this warpgroup's turn at the tensor cores."""
    mbarrier.wait(buffers.pingpong_bars.index(HALF), (turn & 1) ^ (1 - HALF))


@gluon.jit
def _end_turn(buffers, HALF: gl.constexpr):
    mbarrier.arrive(buffers.pingpong_bars.index(1 - HALF), count=1)


@gluon.jit
def _of_half(pair, HALF: gl.constexpr):
    """Return the blocks that one of the two keeps alone, their tiles, and those of the other one."""
    own, mine, theirs = pair.own_0, pair.tiles_0, pair.tiles_1
    if HALF == 1:
        own, mine, theirs = pair.own_1, pair.tiles_1, pair.tiles_0
    return own, mine, theirs


@gluon.jit
def _let_pass(buffers, pair, base, turns, STAGES: gl.constexpr, RUNNING: gl.constexpr, HALF: gl.constexpr):
    """Let the rounds pass in which only the other one has a tile, and return their number."""
    _, mine, theirs = _of_half(pair, HALF)
    passed = gl.maximum(theirs - mine, 0)
    for r in range(passed):
        _pass(buffers.k_full, buffers.k_empty, base + r, STAGES)
        _pass(buffers.v_full, buffers.v_empty, base + r, STAGES)
        if not RUNNING:
            _await_turn(buffers, turns + r, HALF)
            _end_turn(buffers, HALF)
    return passed


@gluon.jit
def _masked(s, pair, sequence, HALF: gl.constexpr):
    """Mask the scores of the first tile of a walk with minus infinity if there is no key."""
    own, tiles, _ = _of_half(pair, HALF)
    place = 2 * gl.maximum(tiles - 1, 0)
    first = _block(pair, HALF, own, place)
    second = _block(pair, HALF, own, gl.minimum(place + 1, gl.maximum(own - 1, 0)))
    column = gl.arange(0, 128, layout=gl.SliceLayout(0, s.type.layout))
    key = gl.where(column < 64, first * 64, second * 64) + column % 64
    # Without a tile of its own, a walk begins with what both keep, where everything is seen.
    visible = (2 * (tiles - 1) + column // 64 < own) & (key < sequence.k_tokens)
    return gl.where(visible[None, :], s, float("-inf"))


@gluon.jit
def _walk(  # noqa: PLR0915 - the order of waits and products is one thing
    buffers, pair, sequence, q, base, turns, D: gl.constexpr, STAGES: gl.constexpr, RUNNING: gl.constexpr,
    HALF: gl.constexpr,
):  # fmt: skip
    """Walk over all tiles of one of the two: output, sums, and what the exponents were taken to.

    This program had ``base`` tiles and ``turns`` at the tensor cores before.
    """
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
    dtype: gl.constexpr = buffers.k.dtype
    NEXT: gl.constexpr = 1 - 2 * HALF  # from a tile of its own to that of the other one
    scale = sequence.scale
    passed = _let_pass(buffers, pair, base, turns, STAGES, RUNNING, HALF)

    apart = _is_apart(pair, passed, 0)
    slot, before = base + passed + apart * HALF, apart
    s = warpgroup_mma_wait(0, deps=[start_scores(q, buffers.k, buffers.k_full, slot, STAGES, s_layout)])
    _free(buffers.k_empty, slot, STAGES)
    if apart == 1:
        _pass(buffers.k_full, buffers.k_empty, slot + NEXT, STAGES)
    s = _masked(s, pair, sequence, HALF)
    m_i = gl.max(s, 1) * scale
    if not RUNNING:
        m_i = gl.where(m_i == float("-inf"), 0.0, m_i) + START
    p = gl.exp2(s * scale - gl.where(m_i == float("-inf"), 0.0, m_i)[:, None])
    l_i = gl.sum(p, 1)
    acc = gl.zeros([64, D], gl.float32, o_layout)
    for r in range(passed + 1, _rounds(pair)):
        last, was_apart = slot, apart
        apart = _is_apart(pair, r, before)
        slot = base + r + before + apart * HALF
        before += apart
        p_operand = gl.convert_layout(p.to(dtype), p_layout)
        if not RUNNING:
            _await_turn(buffers, turns + r - 1, HALF)
        scores = start_scores(q, buffers.k, buffers.k_full, slot, STAGES, s_layout)
        _await(buffers.v_full, last, STAGES)
        product = warpgroup_mma(p_operand, buffers.v.index(last % STAGES), acc, is_async=True)
        if not RUNNING:
            _end_turn(buffers, HALF)
        s = warpgroup_mma_wait(1, deps=[scores])
        _free(buffers.k_empty, slot, STAGES)
        if apart == 1:
            _pass(buffers.k_full, buffers.k_empty, slot + NEXT, STAGES)
        if RUNNING:
            m_new = gl.maximum(m_i, gl.max(s, 1) * scale)
            alpha = gl.exp2(m_i - m_new)
            m_i, l_i = m_new, l_i * alpha
        p = gl.exp2(s * scale - m_i[:, None])
        l_i += gl.sum(p, 1)
        acc = warpgroup_mma_wait(0, deps=[product])
        _free(buffers.v_empty, last, STAGES)
        if was_apart == 1:
            _pass(buffers.v_full, buffers.v_empty, last + NEXT, STAGES)
        if RUNNING:
            acc = acc * gl.convert_layout(alpha, gl.SliceLayout(1, o_layout))[:, None]
    mbarrier.arrive(buffers.q_empty.index(0), count=1)
    _await(buffers.v_full, slot, STAGES)
    acc = warpgroup_mma(gl.convert_layout(p.to(dtype), p_layout), buffers.v.index(slot % STAGES), acc)
    _free(buffers.v_empty, slot, STAGES)
    if apart == 1:
        _pass(buffers.v_full, buffers.v_empty, slot + NEXT, STAGES)
    return acc, l_i, m_i


@gluon.jit
def _attend(buffers, pairs, sequence, memory, D: gl.constexpr, STAGES: gl.constexpr, HALF: gl.constexpr):
    """Run the warpgroup of one query block of each pair."""
    q = buffers.q.index(HALF)
    n, base, turns, overflow = 0, 0, 0, 0
    i, size_0, size_1 = told(buffers, n, 4)
    while i < pairs.total:
        pair = _pair(pairs, i, size_0, size_1)
        acc, l_i, m_i = _walk(buffers, pair, sequence, q, base, turns, D, STAGES, False, HALF)
        # Sums that are not numbers would stay so with a running maximum, too.
        void = gl.max(gl.where(l_i >= gl.exp2(HEADROOM), 1, 0), 0)
        overflow = gl.maximum(overflow, void)
        store_rows(acc, l_i, m_i, void > 0, buffers, pair, sequence, memory, D, HALF)
        n, base, turns = n + 1, base + _tiles(pair), turns + _rounds(pair) - 1
        i, size_0, size_1 = told(buffers, n, 4)
    mbarrier.arrive(buffers.q_empty.index(0), count=1)
    buffers.overflow_flag.slice(HALF, 1).store(gl.full([1], overflow, gl.int32, gl.BlockedLayout([1], [32], [4], [0])))
    mbarrier.arrive(buffers.overflow_bar.index(0), count=1)
    if overflowed(buffers, 4):
        _attend_again(buffers, pairs, sequence, memory, q, size_0, n + 1, base, D, STAGES, HALF)


@gluon.jit
def _attend_again(
    buffers, pairs, sequence, memory, q, last, n, base, D: gl.constexpr, STAGES: gl.constexpr, HALF: gl.constexpr
):
    """Walk the lists of the pairs that were left void once more, with a running maximum."""
    i, again = last, 0
    while i >= 0:
        pair = _pair_at(pairs, i)
        if is_void(memory, sequence, pair):
            mbarrier.arrive(buffers.void_bar.index(0), count=1)
            mbarrier.wait(buffers.q_full.index(0), n & 1)
            acc, l_i, m_i = _walk(buffers, pair, sequence, q, base, 0, D, STAGES, True, HALF)
            mbarrier.wait(buffers.void_bar.index(0), again & 1)
            store_rows(acc, l_i, m_i, False, buffers, pair, sequence, memory, D, HALF)
            n, base, again = n + 1, base + _tiles(pair), again + 1
        i = previous(pairs, i)


@gluon.jit(do_not_specialize=["pairs", "fixed", "heads", "q_tokens", "k_tokens", "nq", "nk", "tiles", "width"])
def paired_kernel(
    q_desc, k_desc, v_desc, ids, sizes, out, lse, order, stride_b, stride_h, stride,
    pairs, fixed, heads, q_tokens, k_tokens, nq, nk, tiles, width, scale, D: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    pairs = Pairs(pairs, heads, tiles, ids, sizes, width, nq, nk, fixed, order)
    sequence = Sequence(q_tokens, k_tokens, nq, nk, scale)
    memory = Memory(out, lse, lse, lse, stride_b, stride_h, stride)
    buffers = start(q_desc.dtype, D, STAGES, 2)
    gl.warp_specialize(
        [
            (_attend, (buffers, pairs, sequence, memory, D, STAGES, 0)),
            (_attend, (buffers, pairs, sequence, memory, D, STAGES, 1)),
            (_load_keys, (q_desc, k_desc, buffers, pairs, sequence, memory, D, STAGES)),
            (_load_values, (v_desc, buffers, pairs, sequence, memory, D, STAGES)),
        ],
        [4, 1, 1],
        [240, 24, 24],
    )


launch_paired = Launcher(paired_kernel)


def block_sparse_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, index: BlockIndex, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and LSE over the listed key blocks, of query blocks and key blocks of 64."""
    q, k, v = unit_stride(q), unit_stride(k), unit_stride(v)
    out, lse = torch.empty_like(q), torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    ids, sizes = pair_lists(index)
    pairs = q.shape[0] * q.shape[1] * num_blocks(q.shape[2], QUERY_TILE.value)
    programs = programs_for(pairs, q.device)
    fixed, order = turns(pairs, programs, sizes)

    def launch() -> Launch:
        _, heads, tokens, dim = q.shape
        numbers = (*out.stride()[:3], pairs, fixed, heads, tokens, k.shape[2])
        numbers += (index.num_query_blocks, index.num_key_blocks, num_blocks(tokens, QUERY_TILE.value))
        numbers += (ids.shape[3], scale * LOG2_E.value)
        return Launch((programs, 1, 1), numbers, {"D": dim, "STAGES": STAGES[dim]} | REGISTERS)

    kind = (q.dtype, q.shape, k.shape, out.stride(), ids.shape[3], scale)
    launch_paired.as_before(kind, (panels(q), panels(k), panels(v), ids, sizes, out, lse, order), launch)
    return out, lse
