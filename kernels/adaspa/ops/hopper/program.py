# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Parts that the attention kernels of this package share: what a program has in shared memory and writes at its end."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier

# Gluon's own name for it is private; its tutorials import it from here.
from triton.language.core import _aggregate as aggregate

from adaspa.ops.triton.tiles import LN_2

STAGES = {64: 4, 128: 3}  # tiles of keys and of values in shared memory, by head_dim
QUERY_TILE = gl.constexpr(128)  # query rows of a program, half of them in each warpgroup
REGISTERS = {"num_warps": 4, "maxnreg": 168}  # of 384 threads: 240 for those that compute, 24 for those that load
# Sums of exponentials stay below 2**HEADROOM, so that fp32 holds them times values up to 2**17. The largest exponential
# of the first tile is 2**-START, so that most of the room is above it: scores may rise by 142. What fp32 has no numbers
# for, below 2**-126, does not count: a million of them are less than a thousandth of that one.
HEADROOM, START = gl.constexpr(110.0), gl.constexpr(96.0)


@aggregate
class Buffers:
    """Tiles in shared memory, and the barriers by which loads and products wait for each other."""

    q: gl.shared_memory_descriptor  # [2, 64, D]
    k: gl.shared_memory_descriptor  # [STAGES, 128, D]
    v: gl.shared_memory_descriptor
    q_full: gl.shared_memory_descriptor
    q_empty: gl.shared_memory_descriptor
    k_full: gl.shared_memory_descriptor
    k_empty: gl.shared_memory_descriptor
    v_full: gl.shared_memory_descriptor
    v_empty: gl.shared_memory_descriptor
    pingpong_bars: gl.shared_memory_descriptor
    """Whose turn it is at the tensor cores."""
    overflow_flag: gl.shared_memory_descriptor
    """Flag of each warpgroup: not 0 if it left a query tile void."""
    overflow_bar: gl.shared_memory_descriptor
    void_bar: gl.shared_memory_descriptor
    """Barrier of all that load or compute: they have seen that a query tile is void."""
    votes: gl.shared_memory_descriptor
    """Flag of each warp, in fp16: not 0 if a row's sum over the last tile exceeds the limit."""
    taken: gl.shared_memory_descriptor
    """Pair that is loaded, and the sizes of its lists."""

    @gluon.constexpr_function
    def __init__(
        self, q, k, v, q_full, q_empty, k_full, k_empty, v_full, v_empty, pingpong_bars, overflow_flag, overflow_bar,
        void_bar, votes, taken,
    ):  # fmt: skip
        self.q, self.k, self.v = q, k, v
        self.q_full, self.q_empty = q_full, q_empty
        self.k_full, self.k_empty = k_full, k_empty
        self.v_full, self.v_empty = v_full, v_empty
        self.pingpong_bars = pingpong_bars
        self.overflow_flag, self.overflow_bar = overflow_flag, overflow_bar
        self.void_bar, self.votes, self.taken = void_bar, votes, taken


@aggregate
class Sequence:
    """Sizes of the whole call."""

    q_tokens: gl.tensor
    k_tokens: gl.tensor
    strips: gl.tensor
    nk: gl.tensor
    scale: gl.tensor

    @gluon.constexpr_function
    def __init__(self, q_tokens, k_tokens, strips, nk, scale):
        self.q_tokens, self.k_tokens, self.strips, self.nk, self.scale = q_tokens, k_tokens, strips, nk, scale


@aggregate
class Memory:
    """Pointers to what is read beside the tiles, and to what is written."""

    out: gl.tensor
    lse: gl.tensor
    cached_lse: gl.tensor
    block_mass: gl.tensor
    stride_b: gl.tensor
    stride_h: gl.tensor
    stride: gl.tensor

    @gluon.constexpr_function
    def __init__(self, out, lse, cached_lse, block_mass, stride_b, stride_h, stride):
        self.out, self.lse, self.cached_lse, self.block_mass = out, lse, cached_lse, block_mass
        self.stride_b, self.stride_h, self.stride = stride_b, stride_h, stride


@gluon.jit
def start(dtype: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr, LOADERS: gl.constexpr):
    """Allocate the shared memory of a program, and start its barriers."""
    layout: gl.constexpr = gl.NVMMASharedLayout(128, 16, rank=2)
    flags: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    q_tiles = gl.allocate_shared_memory(dtype, [2, QUERY_TILE // 2, D], layout)
    k_tiles = gl.allocate_shared_memory(dtype, [STAGES, 128, D], layout)
    v_tiles = gl.allocate_shared_memory(dtype, [STAGES, 128, D], layout)
    q_full = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    q_empty = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_full.index(0), count=1)
    mbarrier.init(q_empty.index(0), count=1 + LOADERS)  # all but the one that loads it
    for i in gl.static_range(STAGES):
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(v_full.index(i), count=1)
        mbarrier.init(k_empty.index(i), count=2)
        mbarrier.init(v_empty.index(i), count=2)
    pingpong_bars = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    mbarrier.init(pingpong_bars.index(0), count=1)
    mbarrier.init(pingpong_bars.index(1), count=1)
    overflow_flag = gl.allocate_shared_memory(gl.int32, [2], flags)
    overflow_bar = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    mbarrier.init(overflow_bar.index(0), count=2)
    void_bar = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    mbarrier.init(void_bar.index(0), count=2 + LOADERS)
    votes = gl.allocate_shared_memory(gl.int32, [8], flags)
    taken = votes
    if LOADERS == 2:
        taken = gl.allocate_shared_memory(gl.int32, [8], flags)
    fence_async_shared()
    return Buffers(
        q_tiles, k_tiles, v_tiles, q_full, q_empty, k_full, k_empty, v_full, v_empty, pingpong_bars,
        overflow_flag, overflow_bar, void_bar, votes, taken,
    )  # fmt: skip


@gluon.jit
def is_void(memory, sequence, work):
    """Tell whether one of the warpgroups left the query tile void, as the LSE says."""
    at = memory.lse + work.row_of_heads.to(gl.int64) * sequence.q_tokens + work.first_row
    upper = gl.load(at)
    lower = gl.load(at + 64, mask=work.first_row + 64 < sequence.q_tokens, other=0.0)
    return (upper == float("inf")) | (lower == float("inf"))


@gluon.jit
def overflowed(buffers, WARPS: gl.constexpr):
    """Wait for both warpgroups, and tell whether one of them left a query tile void."""
    mbarrier.wait(buffers.overflow_bar.index(0), 0)
    return gl.max(buffers.overflow_flag.load(gl.BlockedLayout([1], [32], [WARPS], [0])), 0) > 0


@gluon.jit
def store_rows(acc, l_i, m_i, void, buffers, work, sequence, memory, D: gl.constexpr, HALF: gl.constexpr):
    """Store output and LSE of 64 query rows; an LSE of infinity says that they are void."""
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    o_rows: gl.constexpr = gl.SliceLayout(1, o_layout)
    first_row = work.first_row + HALF * 64
    # An empty row has zeros, and log2(0) is its LSE.
    acc = acc * gl.convert_layout(1.0 / gl.where(l_i > 0, l_i, 1.0), o_rows)[:, None]
    row = first_row + gl.arange(0, 64, layout=o_rows)
    column = gl.arange(0, D, layout=gl.SliceLayout(0, o_layout))
    at = memory.out + work.batch.to(gl.int64) * memory.stride_b + work.head.to(gl.int64) * memory.stride_h
    at += row.to(gl.int64)[:, None] * memory.stride + column[None, :]
    gl.store(at, acc.to(buffers.q.dtype), mask=(row < sequence.q_tokens)[:, None])
    values = gl.where(void, float("inf"), (m_i + gl.log2(l_i)) * LN_2)
    row = first_row + gl.arange(0, 64, layout=gl.SliceLayout(1, s_layout))
    at = memory.lse + work.row_of_heads.to(gl.int64) * sequence.q_tokens
    gl.store(at + row, values, mask=row < sequence.q_tokens)
