# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Block-sparse attention on Hopper GPUs in query blocks of 64 rows, two neighbours to a program.

As in `adaspa.ops.hopper.attention`, two warpgroups attend to tiles of 128 keys, but each has a query block of its own,
with a list of its own. One warp loads keys, and one values. The lists of neighbours are much alike. What both keep
is loaded once and serves both; what one keeps serves that one, and the other lets it pass (`rounds`).

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
from adaspa.ops.hopper.pair_lists import pair_lists
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
from adaspa.ops.hopper.rounds import (
    await_tile,
    await_turn,
    block_at,
    end_turn,
    free_tile,
    is_apart,
    let_pass,
    next_load,
    of_half,
    pair_of,
    pass_tile,
    places,
    rounds_of,
    tiles_of,
)
from adaspa.ops.hopper.tiles import load_blocks, panels, start_scores
from adaspa.ops.hopper.turns import load_told, previous, programs_for, take_next, tell_end, told, turns
from adaspa.ops.triton.launch import Launch, Launcher
from adaspa.ops.triton.tiles import LOG2_E

QUERY_BLOCK = 64
BLOCKS = gl.constexpr(2)  # key blocks of a tile


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
    return pair_of(pairs.ids, pairs.heads, pairs.tiles, pairs.nq, pairs.nk, pairs.width, i, size_0, size_1, BLOCKS)


@gluon.jit
def _pair_at(pairs, i):
    size_0, size_1 = _sizes(pairs, i)
    return _pair(pairs, i, size_0, size_1)


@gluon.jit
def _loaded(pair, r, before, half, apart):
    """Return the two blocks that are loaded in a round, those of one of the two if they have tiles of their own."""
    half, own, first, last = places(pair, r, before, half, apart, BLOCKS)
    second = gl.minimum(first + 1, last)
    return block_at(pair, half, own, first, BLOCKS), block_at(pair, half, own, second, BLOCKS)


@gluon.jit
def _load_lists(desc, tiles, full, empty, pair, base, D: gl.constexpr, STAGES: gl.constexpr):
    """Load the keys or the values of a pair; ``base`` tiles went through before."""
    count = tiles_of(pair)
    r, before, half = 0, 0, 0
    apart = is_apart(pair, r, before)
    first, second = _loaded(pair, r, before, half, apart)
    for t in range(count):
        stage, phase = (base + t) % STAGES, ((base + t) // STAGES) & 1
        # The lists are read one tile ahead: their latency would stall the loads.
        r, before, half, apart = next_load(pair, r, before, half, apart)
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
def _masked(s, pair, sequence, HALF: gl.constexpr):
    """Mask the scores of the first tile of a walk with minus infinity if there is no key."""
    own, tiles, _ = of_half(pair, HALF)
    place = 2 * gl.maximum(tiles - 1, 0)
    first = block_at(pair, HALF, own, place, BLOCKS)
    second = block_at(pair, HALF, own, gl.minimum(place + 1, gl.maximum(own - 1, 0)), BLOCKS)
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
    passed = let_pass(buffers, pair, base, turns, STAGES, RUNNING, HALF)

    apart = is_apart(pair, passed, 0)
    slot, before = base + passed + apart * HALF, apart
    s = warpgroup_mma_wait(0, deps=[start_scores(q, buffers.k, buffers.k_full, slot, STAGES, s_layout)])
    free_tile(buffers.k_empty, slot, STAGES)
    if apart == 1:
        pass_tile(buffers.k_full, buffers.k_empty, slot + NEXT, STAGES)
    s = _masked(s, pair, sequence, HALF)
    m_i = gl.max(s, 1) * scale
    if not RUNNING:
        m_i = gl.where(m_i == float("-inf"), 0.0, m_i) + START
    p = gl.exp2(s * scale - gl.where(m_i == float("-inf"), 0.0, m_i)[:, None])
    l_i = gl.sum(p, 1)
    acc = gl.zeros([64, D], gl.float32, o_layout)
    for r in range(passed + 1, rounds_of(pair)):
        last, was_apart = slot, apart
        apart = is_apart(pair, r, before)
        slot = base + r + before + apart * HALF
        before += apart
        p_operand = gl.convert_layout(p.to(dtype), p_layout)
        if not RUNNING:
            await_turn(buffers, turns + r - 1, HALF)
        scores = start_scores(q, buffers.k, buffers.k_full, slot, STAGES, s_layout)
        await_tile(buffers.v_full, last, STAGES)
        product = warpgroup_mma(p_operand, buffers.v.index(last % STAGES), acc, is_async=True)
        if not RUNNING:
            end_turn(buffers, HALF)
        s = warpgroup_mma_wait(1, deps=[scores])
        free_tile(buffers.k_empty, slot, STAGES)
        if apart == 1:
            pass_tile(buffers.k_full, buffers.k_empty, slot + NEXT, STAGES)
        if RUNNING:
            m_new = gl.maximum(m_i, gl.max(s, 1) * scale)
            alpha = gl.exp2(m_i - m_new)
            m_i, l_i = m_new, l_i * alpha
        p = gl.exp2(s * scale - m_i[:, None])
        l_i += gl.sum(p, 1)
        acc = warpgroup_mma_wait(0, deps=[product])
        free_tile(buffers.v_empty, last, STAGES)
        if was_apart == 1:
            pass_tile(buffers.v_full, buffers.v_empty, last + NEXT, STAGES)
        if RUNNING:
            acc = acc * gl.convert_layout(alpha, gl.SliceLayout(1, o_layout))[:, None]
    mbarrier.arrive(buffers.q_empty.index(0), count=1)
    await_tile(buffers.v_full, slot, STAGES)
    acc = warpgroup_mma(gl.convert_layout(p.to(dtype), p_layout), buffers.v.index(slot % STAGES), acc)
    free_tile(buffers.v_empty, slot, STAGES)
    if apart == 1:
        pass_tile(buffers.v_full, buffers.v_empty, slot + NEXT, STAGES)
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
        n, base, turns = n + 1, base + tiles_of(pair), turns + rounds_of(pair) - 1
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
            n, base, again = n + 1, base + tiles_of(pair), again + 1
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
    ids, sizes = pair_lists(index, BLOCKS.value)
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
