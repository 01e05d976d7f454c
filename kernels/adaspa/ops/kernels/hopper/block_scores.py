# ruff: noqa: PLR0917, RUF059 - the partitions of a kernel take the same bundles of arguments
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Block weights from a cached LSE on Hopper GPUs: query-key products only, no values, no running maximum.

Products and exponentials take equally long. A program has four warpgroups, each with 64 query rows and one accumulator:
while some multiply, the others do their exponentials.
"""

from __future__ import annotations

import torch
import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma_wait,
)

from adaspa.ops.kernels.hopper.tiles import (
    KEYS,
    STRIP,
    load_blocks,
    load_queries,
    merge_strips,
    panels,
    start_scores,
    store_weights,
)
from adaspa.ops.kernels.tiles import LOG2_E

STAGES = {64: 8, 128: 4}  # tiles of keys in shared memory, by head_dim
QUERY_TILE = 256  # query rows of a program, a quarter of them in each warpgroup
REGISTERS = {"num_warps": 4, "maxnreg": 96}  # of 640 threads: 112 for those that compute, 24 for those that load


@gluon.jit
def _load(
    descs, buffers, bars, data, place, sizes,
    D: gl.constexpr, STAGES: gl.constexpr, ROWS: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    """The warp that loads: queries once, then keys as stages become free."""
    q_desc, k_desc = descs
    q_tiles, k_tiles = buffers
    q_full, k_full, k_empty = bars
    b, h, head, first_row = place
    q_tokens, k_tokens, strips, nk, scale = sizes
    load_queries(q_desc, q_tiles, q_full.index(0), b, h, first_row, D)
    for j in range((nk + 1) // 2):
        stage = j % STAGES
        mbarrier.wait(k_empty.index(stage), ((j // STAGES) & 1) ^ 1)
        load_blocks(k_desc, k_tiles.index(stage), k_full.index(stage), b, h, j * 128, j * 128 + 64, D)


@gluon.jit
def _weigh(s, cached, data, head, first_row, j, sizes, ROWS: gl.constexpr, PARTIAL: gl.constexpr):
    """Store the weights of the two key blocks of tile ``j``."""
    q_tokens, k_tokens, strips, nk, scale = sizes
    p = gl.exp2(s * scale - cached[:, None])
    if PARTIAL:
        key = j * 128 + gl.arange(0, 128, layout=gl.SliceLayout(0, s.type.layout))
        p = gl.where((key < k_tokens)[None, :], p, 0.0)
    # Rows 8 apart are in the same thread: added up first, they leave half as much to shuffle.
    FOLD: gl.constexpr = 2 if ROWS == 16 else 1
    p = gl.sum(gl.reshape(p, [4, FOLD, 16 // FOLD, 128]), 1)
    halves = gl.sum(gl.reshape(p, [64 // FOLD, 2, 64]), 2)
    store_weights(halves, data[1], head, first_row // FOLD, 2 * j, strips, nk, ROWS // FOLD)


@gluon.jit
def _score(
    descs, buffers, bars, data, place, sizes,
    D: gl.constexpr, STAGES: gl.constexpr, ROWS: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    """The warpgroup of 64 of the query rows."""
    q_tiles, k_tiles = buffers
    q_full, k_full, k_empty = bars
    b, h, head, first_row = place
    q_tokens, k_tokens, strips, nk, scale = sizes
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16])
    first_row = first_row + GROUP * 64
    row = first_row + gl.arange(0, 64, layout=gl.SliceLayout(1, layout))
    # Rows beyond the sequence weigh nothing: exp2(x - inf) = 0.
    cached = gl.load(data[0] + head.to(gl.int64) * q_tokens + row, mask=row < q_tokens, other=float("inf"))
    cached *= 1.4426950408889634
    mbarrier.wait(q_full.index(0), 0)
    q = q_tiles.index(GROUP)
    last = (nk + 1) // 2 - 1
    for j in range(0, last):
        s = warpgroup_mma_wait(0, deps=[start_scores(q, k_tiles, k_full, j, STAGES, layout)])
        mbarrier.arrive(k_empty.index(j % STAGES), count=1)
        _weigh(s, cached, data, head, first_row, j, sizes, ROWS, False)
    s = warpgroup_mma_wait(0, deps=[start_scores(q, k_tiles, k_full, last, STAGES, layout)])
    _weigh(s, cached, data, head, first_row, last, sizes, ROWS, True)


@gluon.jit(do_not_specialize=["heads", "q_tokens", "k_tokens", "strips", "nk", "tiles"])
def block_scores_kernel(
    q_desc, k_desc, cached_lse, weights, heads, q_tokens, k_tokens, strips, nk, tiles, scale,
    D: gl.constexpr, STAGES: gl.constexpr, ROWS: gl.constexpr,
):  # fmt: skip
    program = gl.program_id(0)
    head, tile = program // tiles, program % tiles
    dtype: gl.constexpr = q_desc.dtype
    layout: gl.constexpr = gl.NVMMASharedLayout(128, 16, rank=2)
    q_tiles = gl.allocate_shared_memory(dtype, [4, 64, D], layout)
    k_tiles = gl.allocate_shared_memory(dtype, [STAGES, 128, D], layout)
    q_full = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_full.index(0), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(k_empty.index(i), count=4)  # all warpgroups have read it
    fence_async_shared()
    descs, buffers, bars, data = (q_desc, k_desc), (q_tiles, k_tiles), (q_full, k_full, k_empty), (cached_lse, weights)
    place, sizes = (head // heads, head % heads, head, tile * 256), (q_tokens, k_tokens, strips, nk, scale)
    gl.warp_specialize(
        [
            (_score, (descs, buffers, bars, data, place, sizes, D, STAGES, ROWS, 0)),
            (_score, (descs, buffers, bars, data, place, sizes, D, STAGES, ROWS, 1)),
            (_score, (descs, buffers, bars, data, place, sizes, D, STAGES, ROWS, 2)),
            (_score, (descs, buffers, bars, data, place, sizes, D, STAGES, ROWS, 3)),
            (_load, (descs, buffers, bars, data, place, sizes, D, STAGES, ROWS, 0)),
        ],
        [4, 4, 4, 1],
        [112, 112, 112, 24],
    )


def block_scores(
    q: torch.Tensor, k: torch.Tensor, cached_lse: torch.Tensor, query_rows: int, key_block: int, scale: float
) -> torch.Tensor:
    """Block weights ``[B, H, nq, nk]`` of blocks of ``query_rows`` (sampled) query rows, a power of two of at least 4,
    and of key blocks of 64 or 128."""
    batch, heads, tokens, dim = q.shape
    rows = min(STRIP, query_rows)
    query_blocks, strips, tiles = triton.cdiv(tokens, query_rows), query_rows // rows, triton.cdiv(tokens, QUERY_TILE)
    shape = (batch, heads, query_blocks * strips, triton.cdiv(k.shape[2], KEYS))
    weights = torch.empty(shape, dtype=torch.float32, device=q.device)
    with torch.cuda.device_of(q):
        block_scores_kernel[(batch * heads * tiles,)](
            panels(q), panels(k), cached_lse.float().contiguous(), weights,
            heads, tokens, k.shape[2], *shape[2:], tiles, scale * LOG2_E,
            D=dim, STAGES=STAGES[dim], ROWS=rows, **REGISTERS,
        )  # fmt: skip
    return merge_strips(weights, strips, query_blocks, key_block // KEYS)
