# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Lists of key blocks for two neighbouring query blocks that share a program."""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from triton.runtime import driver

from adaspa.index import BlockIndex, num_blocks
from adaspa.ops.triton.launch import Launch, Launcher

# Of a list's sizes in one number: those that the neighbour lacks, and all.
OWN = tl.constexpr(2**16)
KEPT_UP_TO = 2**20
"""Bytes of an index up to which its ordered lists are kept: so short a call is over before another launch is made."""


@triton.jit
def _below(ids, count, x, STEPS: tl.constexpr):
    """Count the entries of an ascending list that are less than each ``x``."""
    found = x * 0
    for i in tl.static_range(STEPS):
        tried = found + (1 << (STEPS - 1 - i))
        entry = tl.load(ids + tried - 1, mask=tried <= count, other=0).to(tl.int32)
        found = tl.where((tried <= count) & (entry < x), tried, found)
    return found


@triton.jit(do_not_specialize=["nq", "nk", "width", "has_partial"])
def pair_lists_kernel(
    ids, counts, paired, sizes, nq, nk, width, has_partial, BLOCKS: tl.constexpr, WIDTH: tl.constexpr,
    STEPS: tl.constexpr,
):  # fmt: skip
    """Order the lists of two neighbours, and store how many blocks each has alone and in all."""
    tiles = (nq + 1) // 2
    head, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    row = head.to(tl.int64) * nq + tile * 2
    there = tile * 2 + 1 < nq
    upper = tl.load(counts + row)
    lower = tl.load(counts + row + 1, mask=there, other=0)
    place = tl.arange(0, WIDTH)
    for half in tl.static_range(2):
        count, others = (upper, lower) if half == 0 else (lower, upper)
        mine, theirs = ids + (row + half) * width, ids + (row + 1 - half) * width
        listed = (place < count) & (count < nk)
        block = tl.load(mine + place, mask=listed, other=0).to(tl.int32)
        # A full row beside one that is not shares nothing: its list has no room for what the other lacks.
        comparable = listed & (others < nk)
        at = _below(theirs, tl.where(others < nk, others, 0), block, STEPS)
        found = tl.load(theirs + at, mask=comparable & (at < others), other=-1).to(tl.int32)
        common = comparable & (found == block)
        # Whole tiles, without the partial block.
        kept = tl.sum(common.to(tl.int32), 0) - has_partial * tl.sum((common & (block == nk - 1)).to(tl.int32), 0)
        kept = tl.where((upper == nk) & (lower == nk), nk - has_partial, kept) // BLOCKS * BLOCKS
        rank = tl.cumsum(common.to(tl.int32), 0)
        shared = common & (rank <= kept)
        before = tl.minimum(tl.where(common, rank - 1, rank), kept)
        moved = tl.where(shared, count - kept + rank - 1, place - before)
        tl.store(paired + (row + half) * width + moved, block.to(tl.int16), mask=listed)
        tl.store(sizes + tl.program_id(0) * 2 + half, (count - kept) * OWN + count)


launch_pair_lists = Launcher(pair_lists_kernel)


class _Kept(NamedTuple):
    """Ordered lists of an index, and the stream that ordered them."""

    stream: int
    blocks: int
    lists: tuple[torch.Tensor, torch.Tensor]


_kept: WeakKeyDictionary[BlockIndex, _Kept] = WeakKeyDictionary()


def pair_lists(index: BlockIndex, blocks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Order each list so that blocks that the neighbouring query block lacks come first.

    One index serves many denoising steps, so those of a short sequence are ordered once, as long as the stream is the
    same. A CUDA graph orders them in each replay.

    Args:
        index: of query blocks of any size.
        blocks: key blocks in a tile.

    Returns:
        ids as of the index, and the sizes of each list, int32 ``[B, H, pairs, 2]``: `OWN` times the number of those
        first ones, plus the number of all. What both keep makes whole tiles, without a partial block. A full row's
        list is not read, so it holds what ``ids`` held: its first ones are the last blocks.
    """
    if not index.ids.is_cuda or index.ids.nbytes > KEPT_UP_TO or torch.cuda.is_current_stream_capturing():
        return _ordered(index, blocks)
    stream = driver.active.get_current_stream(index.ids.device.index)
    kept = _kept.get(index)
    if kept is None or (kept.stream, kept.blocks) != (stream, blocks):
        kept = _kept[index] = _Kept(stream, blocks, _ordered(index, blocks))
    return kept.lists


def _ordered(index: BlockIndex, blocks: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids, counts = index.ids.contiguous(), index.counts.contiguous()
    (batch, heads, nq, width), nk = ids.shape, index.num_key_blocks
    shape = (batch, heads, num_blocks(nq, 2), 2)
    paired, sizes = torch.empty_like(ids), torch.empty(shape, dtype=torch.int32, device=ids.device)
    has_partial = int(index.key_tokens % index.key_block > 0)

    def launch() -> Launch:
        constants = {"BLOCKS": blocks, "WIDTH": triton.next_power_of_2(width), "STEPS": width.bit_length()}
        return Launch((sizes.numel() // 2, 1, 1), (nq, nk, width, has_partial), constants | {"num_warps": 4})

    launch_pair_lists.as_before((ids.shape, nk, has_partial, blocks), (ids, counts, paired, sizes), launch)
    return paired, sizes
