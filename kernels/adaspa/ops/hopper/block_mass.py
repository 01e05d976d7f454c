# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Block mass from a cached LSE on Hopper GPUs: query-key products only, no values, no running maximum.

Products and exponentials take equally long. A program has four warpgroups, each with 64 query rows and one accumulator:
while some multiply, the others do their exponentials.
"""

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma_wait,
)

# Gluon's own name for it is private; its tutorials import it from here.
from triton.language.core import _aggregate as aggregate

from adaspa.index import num_blocks
from adaspa.ops.device import unit_stride
from adaspa.ops.hopper.tiles import (
    KEYS,
    STRIP,
    load_blocks,
    load_queries,
    merge_strips,
    panels,
    start_scores,
    sum_up,
)
from adaspa.ops.triton.launch import Launch, Launcher
from adaspa.ops.triton.tiles import LOG2_E

STAGES = {64: 8, 128: 4}  # tiles of keys in shared memory, by head_dim
QUERY_TILE = gl.constexpr(256)  # query rows of a program, a quarter of them in each warpgroup
REGISTERS = {"num_warps": 4, "maxnreg": 96}  # of 640 threads: 112 for those that compute, 24 for those that load


@aggregate
class Buffers:
    """Tiles in shared memory, and the barriers by which loads and products wait for each other."""

    q: gl.shared_memory_descriptor  # [4, 64, D]
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
    scale: gl.tensor
    cached_lse: gl.tensor
    block_mass: gl.tensor

    @gluon.constexpr_function
    def __init__(
        self, batch, head, row_of_heads, first_row, q_tokens, k_tokens, strips, nk, scale, cached_lse, block_mass
    ):
        self.batch, self.head, self.row_of_heads, self.first_row = batch, head, row_of_heads, first_row
        self.q_tokens, self.k_tokens, self.strips, self.nk, self.scale = q_tokens, k_tokens, strips, nk, scale
        self.cached_lse, self.block_mass = cached_lse, block_mass


@gluon.jit
def _load(q_desc, k_desc, buffers, work, D: gl.constexpr, STAGES: gl.constexpr):
    """Run the warp that loads: queries once, then keys as stages become free."""
    load_queries(q_desc, buffers.q, buffers.q_full.index(0), work.batch, work.head, work.first_row, D)
    for j in range((work.nk + 1) // 2):
        stage = j % STAGES
        mbarrier.wait(buffers.k_empty.index(stage), ((j // STAGES) & 1) ^ 1)
        load_blocks(
            k_desc, buffers.k.index(stage), buffers.k_full.index(stage), work.batch, work.head, j * 128, j * 128 + 64, D
        )


@gluon.jit
def _sum_up(s, cached, work, first_row, j, ROWS: gl.constexpr, PARTIAL: gl.constexpr):
    """Store the mass of the two key blocks of tile ``j``."""
    p = gl.exp2(s * work.scale - cached[:, None])
    if PARTIAL:
        key = j * 128 + gl.arange(0, 128, layout=gl.SliceLayout(0, s.type.layout))
        p = gl.where((key < work.k_tokens)[None, :], p, 0.0)
    sum_up(p, work.block_mass, work.row_of_heads, first_row, 2 * j, work.strips, work.nk, ROWS)


@gluon.jit
def _score(buffers, work, D: gl.constexpr, STAGES: gl.constexpr, ROWS: gl.constexpr, GROUP: gl.constexpr):
    """Run the warpgroup of 64 of the query rows."""
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16])
    first_row = work.first_row + GROUP * 64
    row = first_row + gl.arange(0, 64, layout=gl.SliceLayout(1, layout))
    # Rows beyond the sequence weigh nothing: exp2(x - inf) = 0.
    cached = gl.load(
        work.cached_lse + work.row_of_heads.to(gl.int64) * work.q_tokens + row,
        mask=row < work.q_tokens,
        other=float("inf"),
    )
    cached *= LOG2_E
    mbarrier.wait(buffers.q_full.index(0), 0)
    q = buffers.q.index(GROUP)
    last = (work.nk + 1) // 2 - 1
    for j in range(0, last):
        s = warpgroup_mma_wait(0, deps=[start_scores(q, buffers.k, buffers.k_full, j, STAGES, layout)])
        mbarrier.arrive(buffers.k_empty.index(j % STAGES), count=1)
        _sum_up(s, cached, work, first_row, j, ROWS, False)
    s = warpgroup_mma_wait(0, deps=[start_scores(q, buffers.k, buffers.k_full, last, STAGES, layout)])
    _sum_up(s, cached, work, first_row, last, ROWS, True)


@gluon.jit(do_not_specialize=["heads", "q_tokens", "k_tokens", "strips", "nk", "tiles"])
def block_mass_kernel(
    q_desc, k_desc, cached_lse, block_mass, heads, q_tokens, k_tokens, strips, nk, tiles, scale,
    D: gl.constexpr, STAGES: gl.constexpr, ROWS: gl.constexpr,
):  # fmt: skip
    program = gl.program_id(0)
    head, tile = program // tiles, program % tiles
    dtype: gl.constexpr = q_desc.dtype
    layout: gl.constexpr = gl.NVMMASharedLayout(128, 16, rank=2)
    q_tiles = gl.allocate_shared_memory(dtype, [4, QUERY_TILE // 4, D], layout)
    k_tiles = gl.allocate_shared_memory(dtype, [STAGES, 128, D], layout)
    q_full = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_full.index(0), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(k_empty.index(i), count=4)  # all warpgroups have read it
    fence_async_shared()
    buffers = Buffers(q_tiles, k_tiles, q_full, k_full, k_empty)
    work = Work(
        head // heads, head % heads, head, tile * QUERY_TILE, q_tokens, k_tokens, strips, nk, scale,
        cached_lse, block_mass,
    )  # fmt: skip
    gl.warp_specialize(
        [
            (_score, (buffers, work, D, STAGES, ROWS, 0)),
            (_score, (buffers, work, D, STAGES, ROWS, 1)),
            (_score, (buffers, work, D, STAGES, ROWS, 2)),
            (_score, (buffers, work, D, STAGES, ROWS, 3)),
            (_load, (q_desc, k_desc, buffers, work, D, STAGES)),
        ],
        [4, 4, 4, 1],
        [112, 112, 112, 24],
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
    q, k, cached_lse = unit_stride(q)[:, :, ::query_stride], unit_stride(k), cached_lse[:, :, ::query_stride]
    batch, heads, tokens, dim = q.shape
    query_rows = query_block // query_stride
    rows = min(STRIP.value, query_rows)
    query_blocks, strips = num_blocks(tokens, query_rows), query_rows // rows
    shape = (batch, heads, query_blocks * strips, num_blocks(k.shape[2], KEYS))
    mass = torch.empty(shape, dtype=torch.float32, device=q.device)

    def launch() -> Launch:
        tiles = num_blocks(tokens, QUERY_TILE.value)
        sizes = (heads, tokens, k.shape[2], *shape[2:], tiles, scale * LOG2_E.value)
        constants = {"D": dim, "STAGES": STAGES[dim], "ROWS": rows} | REGISTERS
        return Launch((batch * heads * tiles, 1, 1), sizes, constants)

    kind = (q.dtype, q.shape, shape, k.shape, rows, scale)
    launch_block_mass.as_before(kind, (panels(q), panels(k), cached_lse.float().contiguous(), mass), launch)
    return merge_strips(mass, strips, query_blocks, key_block // KEYS)
