# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Block-sparse attention in eight bits in query blocks of 64 rows, two neighbours to a program.

Each of the two warpgroups of `adaspa.ops.hopper_eight.attention` has a query block and a list of its own here. What
both lists keep is loaded once (`adaspa.ops.hopper.rounds`), in tiles of four key blocks. Lists that are the same give
the same bits as one list for both. One warp loads keys, and one values: in a round with a tile for each, two of both
are needed at once.
"""

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

from adaspa.index import BlockIndex, num_blocks
from adaspa.ops.device import unit_stride
from adaspa.ops.hopper.pair_lists import pair_lists
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
from adaspa.ops.hopper_eight.prepare import prepared
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

QUERY_BLOCK = 64
BLOCKS = gl.constexpr(4)  # key blocks of a tile
STAGES = 2  # tiles of keys and of values in shared memory


@gluon.jit
def _blocks(pair, r, before, half, apart):
    """Return the four blocks that are loaded in a round; behind the last one of a list, that one again."""
    half, own, first, last = places(pair, r, before, half, apart, BLOCKS)
    a = block_at(pair, half, own, first, BLOCKS)
    b = block_at(pair, half, own, gl.minimum(first + 1, last), BLOCKS)
    c = block_at(pair, half, own, gl.minimum(first + 2, last), BLOCKS)
    return a, b, c, block_at(pair, half, own, gl.minimum(first + 3, last), BLOCKS)


@gluon.jit
def _scales(pair, k_scales, r, before, half, apart):
    """Return the scales of those blocks of keys."""
    half, own, first, last = places(pair, r, before, half, apart, BLOCKS)
    place = first + gl.arange(0, BLOCKS, layout=gl.BlockedLayout([1], [32], [1], [0]))
    return gl.load(k_scales + block_at(pair, half, own, gl.minimum(place, last), BLOCKS))


@gluon.jit
def _load_keys(q_desc, k_desc, buffers, pair, k_scales, D: gl.constexpr, STAGES: gl.constexpr):
    """Run the warp that loads queries, and then keys as stages become free."""
    load_queries(q_desc, buffers, pair, D)
    r, before, half = 0, 0, 0
    apart = is_apart(pair, r, before)
    ahead, next_scales = _blocks(pair, r, before, half, apart), _scales(pair, k_scales, r, before, half, apart)
    for t in range(tiles_of(pair)):
        blocks, scales = ahead, next_scales
        # The lists are read one tile ahead: their latency would stall the loads.
        r, before, half, apart = next_load(pair, r, before, half, apart)
        ahead, next_scales = _blocks(pair, r, before, half, apart), _scales(pair, k_scales, r, before, half, apart)
        mbarrier.wait(buffers.k_empty.index(t % STAGES), ((t // STAGES) & 1) ^ 1)
        load_keys(k_desc, buffers, t % STAGES, pair, blocks, scales, D)


@gluon.jit
def _load_values(v_desc, buffers, pair, D: gl.constexpr, STAGES: gl.constexpr):
    """Run the warp that loads values. Keys need not wait until there is room for the values before them."""
    r, before, half = 0, 0, 0
    apart = is_apart(pair, r, before)
    ahead = _blocks(pair, r, before, half, apart)
    for t in range(tiles_of(pair)):
        blocks = ahead
        r, before, half, apart = next_load(pair, r, before, half, apart)
        ahead = _blocks(pair, r, before, half, apart)
        mbarrier.wait(buffers.v_empty.index(t % STAGES), ((t // STAGES) & 1) ^ 1)
        load_values(v_desc, buffers, t % STAGES, pair, blocks, D)


@gluon.jit
def _masked(s, pair, memory, HALF: gl.constexpr):
    """Return the scores of the first tile of a walk, minus infinity where it has no key."""
    own, tiles, _ = of_half(pair, HALF)
    column = gl.arange(0, N, layout=gl.SliceLayout(0, s.type.layout))
    place = BLOCKS * gl.maximum(tiles - 1, 0) + column // 64
    key = block_at(pair, HALF, own, gl.minimum(place, gl.maximum(own - 1, 0)), BLOCKS) * 64 + column % 64
    # Without a tile of its own, a walk begins with what both keep, where everything is seen.
    visible = (BLOCKS * (tiles - 1) + column // 64 < own) & (key < memory.k_tokens)
    return gl.where(visible[None, :], s, float("-inf"))


@gluon.jit
def _walk(buffers, pair, memory, q_scale, D: gl.constexpr, STAGES: gl.constexpr, HALF: gl.constexpr):
    """Return the softmax of one of the two over all its tiles: output, sums, what both are relative to."""
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 32])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 32])
    o_rows: gl.constexpr = gl.SliceLayout(1, o_layout)
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 4)
    in_blocks = gl.reshape(gl.zeros([64, N], gl.float32, s_layout), [64, N // 64, 64])
    scales_layout: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(2, in_blocks.type.layout))
    NEXT: gl.constexpr = 1 - 2 * HALF  # from a tile of its own to that of the other one
    q = buffers.q.index(HALF)
    nothing = gl.zeros([64, D], gl.float32, o_layout)
    passed = let_pass(buffers, pair, 0, 0, STAGES, False, HALF)

    apart = is_apart(pair, passed, 0)
    slot, before = passed + apart * HALF, apart
    scores, k_scale = start_scores(q, buffers, slot, STAGES, s_layout, scales_layout)
    s = warpgroup_mma_wait(0, deps=[scores])
    free_tile(buffers.k_empty, slot, STAGES)
    pass_tile(buffers.k_full, buffers.k_empty, slot + NEXT, STAGES, apart == 1)
    m_i = gl.full([64], float("-inf"), gl.float32, gl.SliceLayout(1, s_layout))
    p, l_i, m_i, alpha = softmax(_masked(s.to(gl.float32), pair, memory, HALF), q_scale, k_scale, m_i, True)
    l_rows: gl.constexpr = gl.SliceLayout(1, l_i.type.layout)
    acc = nothing
    for r in range(passed + 1, rounds_of(pair)):
        last, was_apart = slot, apart
        apart = is_apart(pair, r, before)
        slot = r + before + apart * HALF
        before += apart
        p_operand = operand(p, p_layout)
        await_turn(buffers, r - 1, HALF)
        await_tile(buffers.v_full, last, STAGES)
        values = buffers.v.index(last % STAGES).permute([1, 0])
        product = warpgroup_mma(p_operand, values, nothing, use_acc=False, is_async=True)
        product = warpgroup_mma_wait(0, deps=[product])
        free_tile(buffers.v_empty, last, STAGES)
        # Before the next scores begin: there are no registers for these, the product and its sum at once.
        acc = acc * gl.convert_layout(alpha, o_rows)[:, None] + product
        scores, k_scale = start_scores(q, buffers, slot, STAGES, s_layout, scales_layout)
        end_turn(buffers, HALF)
        pass_tile(buffers.v_full, buffers.v_empty, last + NEXT, STAGES, was_apart == 1)
        s = warpgroup_mma_wait(0, deps=[scores])
        free_tile(buffers.k_empty, slot, STAGES)
        pass_tile(buffers.k_full, buffers.k_empty, slot + NEXT, STAGES, apart == 1)
        p, sums, m_i, alpha = softmax(s, q_scale, k_scale, m_i, False)
        l_i = l_i * gl.convert_layout(alpha, l_rows)[:, None] + sums
    await_tile(buffers.v_full, slot, STAGES)
    values = buffers.v.index(slot % STAGES).permute([1, 0])
    product = warpgroup_mma(operand(p, p_layout), values, nothing, use_acc=False)
    acc = acc * gl.convert_layout(alpha, o_rows)[:, None] + product
    return acc, gl.convert_layout(gl.sum(l_i, 1), m_i.type.layout), m_i


@gluon.jit
def _attend(buffers, pair, memory, D: gl.constexpr, STAGES: gl.constexpr, HALF: gl.constexpr):
    """Attend the rows of one query block, in a warpgroup of their own."""
    q_scale = load_query_scales(pair, memory, HALF)
    mbarrier.wait(buffers.q_full.index(0), 0)
    acc, l_i, m_i = _walk(buffers, pair, memory, q_scale, D, STAGES, HALF)
    store_rows(acc, l_i, m_i, pair, memory, D, HALF)


@gluon.jit(do_not_specialize=["heads", "q_tokens", "k_tokens", "nq", "nk", "tiles", "width"])
def paired_kernel(
    q_desc, k_desc, v_desc, ids, sizes, out, lse, q_scales, k_scales, v_scales, offsets,
    stride_b, stride_h, stride, heads, q_tokens, k_tokens, nq, nk, tiles, width,
    D: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    i = gl.program_id(0)
    size_0, size_1 = gl.load(sizes + 2 * i), gl.load(sizes + 2 * i + 1)
    pair = pair_of(ids, heads, tiles, nq, nk, width, i, size_0, size_1, BLOCKS)
    of_head = k_scales + pair.row_of_heads * nk
    memory = Memory(out, lse, q_scales, v_scales, offsets, stride_b, stride_h, stride, q_tokens, k_tokens)
    buffers = start(q_desc, k_desc, v_desc, D, STAGES)
    gl.warp_specialize(
        [
            (_attend, (buffers, pair, memory, D, STAGES, 0)),
            (_attend, (buffers, pair, memory, D, STAGES, 1)),
            (_load_keys, (q_desc, k_desc, buffers, pair, of_head, D, STAGES)),
            (_load_values, (v_desc, buffers, pair, D, STAGES)),
        ],
        [4, 1, 1],
        [240, 24, 24],
    )


launch_paired = Launcher(paired_kernel)


def block_sparse_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, index: BlockIndex, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and LSE over the listed key blocks, of query blocks and key blocks of 64."""
    q = unit_stride(q)
    out, lse = torch.empty_like(q), torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    ready, (ids, sizes) = prepared(q, k, v, scale), pair_lists(index, BLOCKS.value)
    (batch, heads, tokens, dim), pairs = q.shape, num_blocks(q.shape[2], 128)
    launch_paired(
        (batch * heads * pairs, 1, 1),
        BlockDescriptor(ready.q, [1, 1, 64, dim]), BlockDescriptor(ready.k, [1, 1, 64, dim]),
        BlockDescriptor(ready.v, [1, 1, dim, 64]),
        ids, sizes, out, lse, ready.q_scales, ready.k_scales, ready.v_scales, ready.offsets, *out.stride()[:3],
        heads, tokens, k.shape[2], index.num_query_blocks, index.num_key_blocks, pairs, ids.shape[-1],
        D=dim, STAGES=STAGES, **REGISTERS,
    )  # fmt: skip
    return out, lse
