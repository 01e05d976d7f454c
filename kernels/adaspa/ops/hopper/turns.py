# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Turns in which programs take pairs of query blocks, and a counter for the last quarter of them.

Lists differ in length. Programs that are early take more from the counter that all share, so that none waits for one
with longer lists. The warp that loads queries takes a pair, and tells the others of its program through shared memory.
For each pair from the counter, a program notes the one that it had before. So it finds those again that were left void.
"""

from functools import cache

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from adaspa.ops.hopper.tiles import load_queries

COUNTED_FROM = 8
"""Pairs of a program from which the last quarter is counted: to clear a counter takes the host longer than it saves."""


def programs_for(pairs: int, device: torch.device) -> int:
    """Return how many programs share the pairs: a processor has registers for one."""
    return min(pairs, _processors(device))


@cache
def _processors(device: torch.device) -> int:
    """Count the processors of a GPU once: PyTorch looks them up anew for each call."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def turns(pairs: int, programs: int, unused: torch.Tensor) -> tuple[int, torch.Tensor]:
    """Return how many pairs the programs have in turns, and a counter for the rest with a place for each.

    Without a counter, ``unused``, an int32 tensor, stands for it, and is not written.
    """
    if pairs < COUNTED_FROM * programs:
        return pairs + programs, unused
    fixed = max(pairs // programs * 3 // 4, 1) * programs
    return fixed, torch.zeros(1 + pairs - fixed, dtype=torch.int32, device=unused.device)


@gluon.jit
def take_next(pairs, i):
    """Take the pair behind the ``i``-th for this program: any number beyond the last one if there is none."""
    next_i = i + gl.num_programs(0)
    if next_i >= pairs.fixed:
        taken = gl.atomic_add(pairs.order, 1, sem="relaxed")
        next_i = pairs.fixed + taken
        gl.store(pairs.order + 1 + taken, i, mask=next_i < pairs.total)
    return next_i


@gluon.jit
def previous(pairs, i):
    """Return the pair that the program of the ``i``-th had before; negative if none."""
    previous_i = i - gl.num_programs(0)
    if i >= pairs.fixed:
        previous_i = gl.load(pairs.order + (1 + i - pairs.fixed))
    return previous_i


@gluon.jit
def _tell(buffers, i, first, second):
    """Tell the others of the program what comes with the next queries; all have read what came before."""
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    buffers.taken.slice(0, 1).store(gl.full([1], i, gl.int32, layout))
    buffers.taken.slice(1, 1).store(gl.full([1], first, gl.int32, layout))
    buffers.taken.slice(2, 1).store(gl.full([1], second, gl.int32, layout))


@gluon.jit
def told(buffers, n, WARPS: gl.constexpr):
    """Wait for the ``n``-th queries, and return their pair and what else was told."""
    mbarrier.wait(buffers.q_full.index(0), n & 1)
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [WARPS], [0])
    i = gl.max(buffers.taken.slice(0, 1).load(layout), 0)
    first = gl.max(buffers.taken.slice(1, 1).load(layout), 0)
    return i, first, gl.max(buffers.taken.slice(2, 1).load(layout), 0)


@gluon.jit
def tell_end(buffers, total, last, n):
    """Tell the others that no pair is left, and which one was the last."""
    mbarrier.wait(buffers.q_empty.index(0), (n & 1) ^ 1)
    _tell(buffers, total, last, 0)
    mbarrier.arrive(buffers.q_full.index(0), count=1)


@gluon.jit
def load_told(q_desc, buffers, pair, i, first, second, n, D: gl.constexpr):
    """Load the ``n``-th queries of this program, and tell the others whose they are."""
    mbarrier.wait(buffers.q_empty.index(0), (n & 1) ^ 1)
    _tell(buffers, i, first, second)
    load_queries(q_desc, buffers.q, buffers.q_full.index(0), pair.batch, pair.head, pair.first_row, D)
