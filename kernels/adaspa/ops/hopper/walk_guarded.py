# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Walk for fp16, whose exponents end at 2**16: those of a tile are taken anew if its sums come too far."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

from adaspa.ops.hopper.lists import blocks_of, tiles_of
from adaspa.ops.hopper.tiles import start_scores
from adaspa.ops.hopper.walk import masked, row_sums, store_mass

# In fp16 the largest exponential is 2**-GUARDED_START when a row's exponents are taken anew, and its sum over a tile
# stays below 2**LIMIT: scores may rise by 12, and what is far below the largest keeps its precision.
GUARDED_START, LIMIT = gl.constexpr(3.0), gl.constexpr(15.0)


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
    sums, mass = row_sums(p, m_new, cached, BLOCK_MASS)
    return acc, l_i * alpha, m_new, p, sums, mass


@gluon.jit
def walk_guarded(  # noqa: PLR0915 - the order of waits and products is one thing
    buffers, work, sequence, memory, q, cached, base, turns, D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr,
    BLOCK_MASS: gl.constexpr, HALF: gl.constexpr,
):  # fmt: skip
    """Walk like `walk`, but recompute exponents if a tile's sums exceed the limit."""
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
    v_layout: gl.constexpr = gl.BlockedLayout([4], [32], [4], [0])
    dtype: gl.constexpr = buffers.k.dtype
    scale = sequence.scale
    first_row = work.first_row + HALF * 64
    tiles = tiles_of(work.count, SPAN)
    votes = buffers.votes.slice(HALF * 4, 4)

    first, second = blocks_of(work.ids, tiles - 1, work.count, work.whole, SPAN)
    s = warpgroup_mma_wait(0, deps=[start_scores(q, buffers.k, buffers.k_full, base, STAGES, s_layout)])
    s = masked(s, first, second, work, sequence, tiles, SPAN)
    m_i = gl.max(s, 1) * scale
    m_i = gl.where(m_i == float("-inf"), 0.0, m_i) + GUARDED_START
    p = gl.exp2(s * scale - m_i[:, None])
    sums, mass = row_sums(p, m_i, cached, BLOCK_MASS)
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
        store_mass(mass, memory, work, sequence, first_row, 2 * (tiles - j), BLOCK_MASS)
        s = warpgroup_mma_wait(1, deps=[scores])
        p = gl.exp2(s * scale - m_i[:, None])
        sums, mass = row_sums(p, m_i, cached, BLOCK_MASS)
        # Sums that are not numbers would stay so with another maximum, too.
        votes.store(gl.max(gl.reshape(gl.where(sums >= gl.exp2(LIMIT), 1, 0), [4, 16]), 1))
        acc = warpgroup_mma_wait(0, deps=[product])
        mbarrier.arrive(buffers.v_empty.index(stage), count=1)
    if gl.max(votes.load(v_layout), 0) > 0:
        acc, l_i, m_i, p, sums, mass = _repaired(
            buffers, sequence, q, cached, base + tiles - 1, acc, l_i, m_i, STAGES, BLOCK_MASS
        )  # fmt: skip
    l_i += sums
    store_mass(mass, memory, work, sequence, first_row, 0, BLOCK_MASS)
    stage = (base + tiles - 1) % STAGES
    mbarrier.arrive(buffers.k_empty.index(stage), count=1)
    mbarrier.arrive(buffers.q_empty.index(0), count=1)
    mbarrier.wait(buffers.v_full.index(stage), ((base + tiles - 1) // STAGES) & 1)
    p_operand = gl.convert_layout(p.to(dtype), p_layout)
    acc = warpgroup_mma(p_operand, buffers.v.index(stage), acc)
    mbarrier.arrive(buffers.v_empty.index(stage), count=1)
    return acc, l_i, m_i
