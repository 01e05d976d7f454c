# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Attention on Hopper GPUs: block-sparse, dense, and dense with block mass.

A query tile of 128 rows attends to a list of key blocks, 128 keys at a time: blocks of 64 that lie apart in memory come
to lie side by side in shared memory, so that the tensor cores see wide tiles whatever the pattern is. The list is
walked from its end, where the one block may be that is partial or has no neighbour; all others need no mask.

Sparse attention in bf16 with a head_dim of 128 has as many programs as the GPU can run at a time, and each takes query
tiles in turns: while the warpgroups end one, the warp that loads is at the next, so that short lists do not wait for
the memory. Elsewhere each program has one query tile, and no program waits for one that walks several lists twice.

A row takes its exponents to the maximum of its first tile: a running maximum costs a tenth of the time. In bf16, whose
exponents reach as far as those of fp32, scores may rise by 142 nats above it. fp16 ends at 2**16: there the warpgroup
looks at the sums of each tile while it multiplies the next one, and moves the exponents of rows that came too far,
before it multiplies values. Where scores rise further, in bf16 or in one tile of fp16, the query tile is void, and its
program walks its list once more, with a running maximum, when it is through with all others. The two warpgroups take
turns at the tensor cores, or both would come to do their exponentials at the same time.
"""

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from adaspa.index import BlockIndex, num_blocks
from adaspa.ops.device import unit_stride
from adaspa.ops.hopper.lists import Works, count_of, load, tiles_of, work_of
from adaspa.ops.hopper.program import (
    HEADROOM,
    QUERY_TILE,
    REGISTERS,
    STAGES,
    Memory,
    Sequence,
    is_void,
    overflowed,
    start,
    store_rows,
)
from adaspa.ops.hopper.tiles import KEYS, STRIP, merge_strips, panels
from adaspa.ops.hopper.walk import load_lse, walk
from adaspa.ops.triton.launch import Launch, Launcher
from adaspa.ops.triton.tiles import LOG2_E

IN_TURNS = (torch.bfloat16, 128)  # dtype and head_dim with which a sparse program takes several query tiles


@gluon.jit
def _attend(
    buffers, works, sequence, memory, D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr,
    LISTED: gl.constexpr, BLOCK_MASS: gl.constexpr, GUARDED: gl.constexpr, HALF: gl.constexpr,
):  # fmt: skip
    """Run the warpgroup of 64 of the rows of each query tile."""
    q = buffers.q.index(HALF)
    step = gl.num_programs(0)
    n, base, turns, overflow = 0, 0, 0, 0
    next_count = count_of(works, gl.program_id(0), LISTED)
    for i in range(gl.program_id(0), works.total, step):
        work = work_of(works, i, next_count, LISTED)
        # Read one query tile ahead: its latency would stall the products.
        next_count = count_of(works, i + step, LISTED)
        cached = load_lse(memory, sequence, work, BLOCK_MASS, HALF)
        mbarrier.wait(buffers.q_full.index(0), n & 1)
        acc, l_i, m_i = walk(
            buffers, work, sequence, memory, q, cached, base, turns, D, STAGES, SPAN, BLOCK_MASS, False, GUARDED, HALF
        )  # fmt: skip
        # Sums that are not numbers would stay so with a running maximum, too.
        void = gl.max(gl.where(l_i >= gl.exp2(HEADROOM), 1, 0), 0)
        overflow = gl.maximum(overflow, void)
        store_rows(acc, l_i, m_i, void > 0, buffers, work, sequence, memory, D, HALF)
        tiles = tiles_of(work.count, SPAN)
        n, base, turns = n + 1, base + tiles, turns + tiles - 1
    buffers.overflow_flag.slice(HALF, 1).store(gl.full([1], overflow, gl.int32, gl.BlockedLayout([1], [32], [4], [0])))
    mbarrier.arrive(buffers.overflow_bar.index(0), count=1)
    if overflowed(buffers, 4):
        _attend_again(buffers, works, sequence, memory, q, n, base, D, STAGES, SPAN, LISTED, BLOCK_MASS, HALF)


@gluon.jit
def _attend_again(
    buffers, works, sequence, memory, q, n, base, D: gl.constexpr, STAGES: gl.constexpr, SPAN: gl.constexpr,
    LISTED: gl.constexpr, BLOCK_MASS: gl.constexpr, HALF: gl.constexpr,
):  # fmt: skip
    """Walk the lists of the query tiles that were left void once more, with a running maximum."""
    again = 0
    for i in range(gl.program_id(0), works.total, gl.num_programs(0)):
        work = work_of(works, i, count_of(works, i, LISTED), LISTED)
        if is_void(memory, sequence, work):
            mbarrier.arrive(buffers.void_bar.index(0), count=1)
            cached = load_lse(memory, sequence, work, BLOCK_MASS, HALF)
            mbarrier.wait(buffers.q_full.index(0), n & 1)
            acc, l_i, m_i = walk(
                buffers, work, sequence, memory, q, cached, base, 0, D, STAGES, SPAN, BLOCK_MASS, True, False, HALF
            )  # fmt: skip
            mbarrier.wait(buffers.void_bar.index(0), again & 1)
            store_rows(acc, l_i, m_i, False, buffers, work, sequence, memory, D, HALF)
            n, base, again = n + 1, base + tiles_of(work.count, SPAN), again + 1


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
            (load, (q_desc, k_desc, v_desc, buffers, works, sequence, memory, D, STAGES, SPAN, LISTED)),
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
    return _launch(q, k, v, scale, index=index)


def dense_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and LSE over all keys."""
    return _launch(q, k, v, scale)


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
    query_blocks, strips = num_blocks(q.shape[2], query_block), query_block // STRIP.value
    query_tiles, key_blocks = num_blocks(q.shape[2], QUERY_TILE.value), num_blocks(k.shape[2], KEYS)
    # Of whole tiles, so that none of them asks what is there.
    shape = (*q.shape[:2], query_tiles * QUERY_TILE.value // STRIP.value, key_blocks + key_blocks % 2)
    block_mass = torch.empty(shape, dtype=torch.float32, device=q.device)
    out, lse = _launch(q, k, v, scale, cached_lse=cached_lse.float().contiguous(), block_mass=block_mass)
    block_mass = block_mass[:, :, : query_blocks * strips, :key_blocks]
    return out, merge_strips(block_mass, strips, query_blocks, key_block // KEYS), lse


def _launch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    *,
    index: BlockIndex | None = None,
    cached_lse: torch.Tensor | None = None,
    block_mass: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the kernel: output and LSE, and ``block_mass`` written into the tensor given."""
    q, k, v = unit_stride(q), unit_stride(k), unit_stride(v)
    out, lse = torch.empty_like(q), torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
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
        programs = min(works, processors) if width > 0 and (q.dtype, dim) == IN_TURNS else works
        return Launch((programs, 1, 1), sizes, constants)

    kind = (q.dtype, q.shape, k.shape, out.stride(), span, width, strips, scale)
    data = (panels(q), panels(k), panels(v), ids, counts, out, lse, cached, mass)
    launch_attention.as_before(kind, data, launch)
    return out, lse
