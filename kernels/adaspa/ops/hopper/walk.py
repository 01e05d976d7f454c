# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Walk of a warpgroup over a list of key blocks, with exponents to the first maximum or to a running one."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

from adaspa.ops.hopper.lists import blocks_of, tiles_of
from adaspa.ops.hopper.program import START
from adaspa.ops.hopper.tiles import STRIP, start_scores
from adaspa.ops.triton.tiles import LOG2_E

# fp16 has no numbers from 2**16 on. Where a row's sum over a tile reaches 2**LIMIT, it is rescaled before p is
# multiplied, and so are all from 2**NEARLY on. The sum is then 2**-GUARDED_START, so that scores may rise by 12 nats
# once more, and what is far below the largest keeps its precision.
GUARDED_START, NEARLY, LIMIT = gl.constexpr(3.0), gl.constexpr(10.0), gl.constexpr(15.0)
VOTES = gl.constexpr(gl.BlockedLayout([4], [32], [4], [0]))


@gluon.jit
def row_sums(p, m_i, cached, BLOCK_MASS: gl.constexpr):
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
def store_mass(mass, memory, work, sequence, first_row, key_block, BLOCK_MASS: gl.constexpr):
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
def masked(s, first, second, work, sequence, tiles, SPAN: gl.constexpr):
    """Mask the scores of the last tile of the list, of these two blocks, with minus infinity if there is no key."""
    column = gl.arange(0, 128, layout=gl.SliceLayout(0, s.type.layout))
    key = gl.where(column < 64, first * 64, second * 64) + column % 64
    listed = (work.count > 0) if SPAN == 2 else 2 * (tiles - 1) + column // 64 < work.count
    return gl.where((listed & (key < sequence.k_tokens))[None, :], s, float("-inf"))


@gluon.jit
def _kept_in_range(votes, acc, l_i, m_i, p, sums):
    """Move the exponents of rows that come too far for fp16, if a warp voted so."""
    if gl.max(votes.load(VOTES), 0) > 0:
        # By whole numbers, which round nothing. An infinite sum is void and stays so.
        moves = (sums >= gl.exp2(NEARLY)) & (sums < gl.exp2(127.0))
        shift = gl.where(moves, gl.minimum(gl.floor(gl.log2(sums)) + GUARDED_START, 126.0), 0.0)
        factor = gl.exp2(-shift)
        acc = acc * gl.convert_layout(factor, gl.SliceLayout(1, acc.type.layout))[:, None]
        l_i, m_i, p = l_i * factor, m_i + shift, p * factor[:, None]
    return acc, l_i, m_i, p


@gluon.jit
def walk(  # noqa: PLR0912, PLR0915 - the order of waits and products is one thing
    buffers, work, sequence, memory, q, cached, base, turns, D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr,
    BLOCK_MASS: gl.constexpr, RUNNING: gl.constexpr, GUARDED: gl.constexpr, HALF: gl.constexpr,
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
    tiles = tiles_of(work.count, SPAN)

    # The last tile of the list comes first, with its mask.
    first, second = blocks_of(work.ids, tiles - 1, work.count, work.whole, SPAN)
    s = warpgroup_mma_wait(0, deps=[start_scores(q, buffers.k, buffers.k_full, base, STAGES, s_layout)])
    mbarrier.arrive(buffers.k_empty.index(base % STAGES), count=1)
    s = masked(s, first, second, work, sequence, tiles, SPAN)
    m_i = gl.max(s, 1) * scale
    if not RUNNING:
        m_i = gl.where(m_i == float("-inf"), 0.0, m_i) + (GUARDED_START if GUARDED else START)
    p = gl.exp2(s * scale - gl.where(m_i == float("-inf"), 0.0, m_i)[:, None])
    sums, mass = row_sums(p, m_i, cached, BLOCK_MASS)
    l_i = sums
    if BLOCK_MASS and not GUARDED:
        p = p.to(dtype)  # there are no registers to take 32 bits to the next tile
    if GUARDED:
        votes = buffers.votes.slice(HALF * 4, 4)
        votes.store(gl.full([4], 0, gl.int32, VOTES))
    acc = gl.zeros([64, D], gl.float32, o_layout)
    for j in range(1, tiles):
        stage = (base + j - 1) % STAGES
        if not GUARDED:
            p_operand = gl.convert_layout(p.to(dtype), p_layout)
        if not RUNNING:
            mbarrier.wait(buffers.pingpong_bars.index(HALF), ((turns + j - 1) & 1) ^ (1 - HALF))
        scores = start_scores(q, buffers.k, buffers.k_full, base + j, STAGES, s_layout)
        if GUARDED:
            # While these are multiplied, the warps look at their votes on the tile before.
            acc, l_i, m_i, p = _kept_in_range(votes, acc, l_i, m_i, p, sums)
            p_operand = gl.convert_layout(p.to(dtype), p_layout)
        mbarrier.wait(buffers.v_full.index(stage), ((base + j - 1) // STAGES) & 1)
        product = warpgroup_mma(p_operand, buffers.v.index(stage), acc, is_async=True)
        if not RUNNING:
            mbarrier.arrive(buffers.pingpong_bars.index(1 - HALF), count=1)
        store_mass(mass, memory, work, sequence, first_row, 2 * (tiles - j), BLOCK_MASS)
        s = warpgroup_mma_wait(1, deps=[scores])
        mbarrier.arrive(buffers.k_empty.index((base + j) % STAGES), count=1)
        if RUNNING:
            m_new = gl.maximum(m_i, gl.max(s, 1) * scale)
            alpha = gl.exp2(m_i - m_new)
            m_i, l_i = m_new, l_i * alpha
        p = gl.exp2(s * scale - m_i[:, None])
        sums, mass = row_sums(p, m_i, cached, BLOCK_MASS)
        l_i += sums
        if GUARDED:
            # Sums that are not numbers would stay so with another maximum, too.
            votes.store(gl.max(gl.reshape(gl.where(sums >= gl.exp2(LIMIT), 1, 0), [4, 16]), 1))
        elif BLOCK_MASS:
            p = p.to(dtype)
        acc = warpgroup_mma_wait(0, deps=[product])
        mbarrier.arrive(buffers.v_empty.index(stage), count=1)
        if RUNNING:
            acc = acc * gl.convert_layout(alpha, gl.SliceLayout(1, o_layout))[:, None]
    if GUARDED:
        acc, l_i, m_i, p = _kept_in_range(votes, acc, l_i, m_i, p, sums)
    mbarrier.arrive(buffers.q_empty.index(0), count=1)
    stage = (base + tiles - 1) % STAGES
    mbarrier.wait(buffers.v_full.index(stage), ((base + tiles - 1) // STAGES) & 1)
    store_mass(mass, memory, work, sequence, first_row, 0, BLOCK_MASS)
    p_operand = gl.convert_layout(p.to(dtype), p_layout)
    acc = warpgroup_mma(p_operand, buffers.v.index(stage), acc)
    mbarrier.arrive(buffers.v_empty.index(stage), count=1)
    return acc, l_i, m_i


@gluon.jit
def load_lse(memory, sequence, work, BLOCK_MASS: gl.constexpr, HALF: gl.constexpr):
    """Load the cached LSE of 64 query rows, in powers of two."""
    layout: gl.constexpr = gl.SliceLayout(1, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16]))
    cached = gl.zeros([64], gl.float32, layout)
    if BLOCK_MASS:
        row = work.first_row + HALF * 64 + gl.arange(0, 64, layout=layout)
        at = memory.cached_lse + work.row_of_heads.to(gl.int64) * sequence.q_tokens
        # Rows beyond the sequence weigh nothing: exp2(x - inf) = 0.
        cached = gl.load(at + row, mask=row < sequence.q_tokens, other=float("inf")) * LOG2_E
    return cached
