# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Parts that the Hopper kernels share: their tiles in shared memory, and the block mass they leave."""

import torch
import torch.nn.functional as F
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from adaspa.ops.triton.launch import Unchecked

KEYS = 64  # of the smallest key block
STRIP = gl.constexpr(16)  # query rows whose mass one warp sums up by itself; a block's strips are added up afterwards
PANEL_SHAPE = [1, 1, 64, 64]
PANEL = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=4)


class PanelDescriptor(Unchecked, TensorDescriptor):
    """A descriptor of panels as Gluon loads them."""

    layout = PANEL


def panels(x: torch.Tensor) -> PanelDescriptor:
    """A descriptor of ``[B, H, S, D]`` that loads panels of 64 rows x 64 columns, as the tensor cores want them."""
    return PanelDescriptor(x, PANEL_SHAPE)


def merge_strips(block_mass: torch.Tensor, strips: int, query_blocks: int, key_parts: int) -> torch.Tensor:
    """Block mass ``[B, H, nq, nk]`` from those of strips and of 64 keys: ``strips`` x ``key_parts`` make a block."""
    if key_parts > 1:
        block_mass = F.pad(block_mass, (0, -block_mass.shape[-1] % key_parts)).unflatten(-1, (-1, key_parts)).sum(-1)
    return block_mass.unflatten(2, (query_blocks, strips)).sum(3) if strips > 1 else block_mass


@gluon.jit
def load_blocks(desc, tile, bar, b, h, first, second, D: gl.constexpr):
    """Rows ``first`` to ``first`` + 63, and those from ``second`` on, as one tile ``[128, D]`` in shared memory.

    A tile consists of panels of 64 columns, and a panel of its two halves of 64 rows.
    """
    columns: gl.constexpr = D // 64
    mbarrier.expect(bar, 128 * D * 2)
    parts = tile._reinterpret(desc.dtype, [2 * columns, 1, 1, 64, 64], desc.layout)
    for i in gl.static_range(columns):
        tma.async_copy_global_to_shared(desc, [b, h, first, i * 64], bar, parts.index(2 * i))
        tma.async_copy_global_to_shared(desc, [b, h, second, i * 64], bar, parts.index(2 * i + 1))


@gluon.jit
def load_queries(desc, tiles, bar, b, h, first, D: gl.constexpr):
    """Query rows from ``first`` on as tiles ``[64, D]``, one for each warpgroup."""
    columns: gl.constexpr = D // 64
    groups: gl.constexpr = tiles.shape[0]
    mbarrier.expect(bar, groups * 64 * D * 2)
    for group in gl.static_range(groups):
        parts = tiles.index(group)._reinterpret(desc.dtype, [columns, 1, 1, 64, 64], desc.layout)
        for i in gl.static_range(columns):
            tma.async_copy_global_to_shared(desc, [b, h, first + group * 64, i * 64], bar, parts.index(i))


@gluon.jit
def start_scores(q, k_tiles, k_full, j, STAGES: gl.constexpr, layout: gl.constexpr):
    """Begin ``q [64, D]`` times the keys of the ``j``-th tile, as soon as they are there."""
    stage = j % STAGES
    mbarrier.wait(k_full.index(stage), (j // STAGES) & 1)
    nothing = gl.zeros([64, 128], gl.float32, layout)
    return warpgroup_mma(q, k_tiles.index(stage).permute([1, 0]), nothing, use_acc=False, is_async=True)


@gluon.jit
def store_block_mass(sums, block_mass, head, first_row, first_key_block, strips, nk, ROWS: gl.constexpr):
    """Store the mass ``[rows, 2]`` that query rows have in two key blocks, summed over strips of ROWS rows."""
    N: gl.constexpr = sums.shape[0] // ROWS
    mass = gl.sum(gl.reshape(sums, [N, ROWS, 2]), 1)
    strip = first_row // ROWS + gl.arange(0, N, layout=gl.SliceLayout(1, mass.type.layout))
    column = first_key_block + gl.arange(0, 2, layout=gl.SliceLayout(0, mass.type.layout))
    at = block_mass + (head.to(gl.int64) * strips + strip.to(gl.int64)[:, None]) * nk + column[None, :]
    gl.store(at, mass, mask=(strip < strips)[:, None] & (column < nk)[None, :])


@gluon.jit
def sum_up(p, block_mass, head, first_row, first_key_block, strips, nk, ROWS: gl.constexpr):
    """Store the mass of 64 query rows in two key blocks, each a half of exponentials or their sums ``p [64, .]``."""
    COLUMNS: gl.constexpr = p.shape[1]
    # Rows 8 apart are in the same thread: added up first, they leave half as much to shuffle.
    FOLD: gl.constexpr = 2 if ROWS == 16 else 1
    p = gl.sum(gl.reshape(p, [4, FOLD, 16 // FOLD, COLUMNS]), 1)
    halves = gl.sum(gl.reshape(p, [64 // FOLD, 2, COLUMNS // 2]), 2)
    store_block_mass(halves, block_mass, head, first_row // FOLD, first_key_block, strips, nk, ROWS // FOLD)
