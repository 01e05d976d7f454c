# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Rounds in which the warpgroups of a program walk the lists of two neighbouring query blocks.

In each round both warpgroups have a tile of ``BLOCKS`` key blocks: one that both keep, or one each that it keeps alone.
Those come from the end, where the one block may be that is partial or has no neighbour, and in between the others,
because they ask twice as much of the memory. The warpgroup with fewer tiles lets the first rounds pass. `pair_lists`
has put the blocks of a list that its neighbour lacks in front of those that both keep.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

# Gluon's own name for it is private; its tutorials import it from here.
from triton.language.core import _aggregate as aggregate

from adaspa.ops.hopper.pair_lists import OWN
from adaspa.ops.hopper.program import QUERY_TILE


@aggregate
class Pair:
    """Two query blocks, and the lists of their key blocks."""

    batch: gl.tensor
    head: gl.tensor
    row_of_heads: gl.tensor
    """``batch * heads + head``."""
    first_row: gl.tensor
    ids: gl.tensor
    """List of the first one, which that of the second one follows."""
    width: gl.tensor
    nk: gl.tensor
    own_0: gl.tensor
    """Blocks that only the first one keeps."""
    own_1: gl.tensor
    tiles_0: gl.tensor
    """Tiles of those; an empty list has a tile too, of which nothing is seen."""
    tiles_1: gl.tensor
    shared: gl.tensor
    """Tiles that both keep."""

    @gluon.constexpr_function
    def __init__(self, batch, head, row_of_heads, first_row, ids, width, nk, own_0, own_1, tiles_0, tiles_1, shared):
        self.batch, self.head, self.row_of_heads, self.first_row = batch, head, row_of_heads, first_row
        self.ids, self.width, self.nk = ids, width, nk
        self.own_0, self.own_1 = own_0, own_1
        self.tiles_0, self.tiles_1, self.shared = tiles_0, tiles_1, shared


@gluon.jit
def pair_of(ids, heads, tiles, nq, nk, width, i, size_0, size_1, BLOCKS: gl.constexpr):
    """Return the ``i``-th pair, of lists of these sizes."""
    head, tile = i // tiles, i % tiles
    ids += (head.to(gl.int64) * nq + 2 * tile) * width
    own_0, own_1 = size_0 // OWN, size_1 // OWN
    shared = (size_0 % OWN - own_0) // BLOCKS
    least = gl.where(shared == 0, 1, 0)
    tiles_0 = gl.maximum((own_0 + BLOCKS - 1) // BLOCKS, least)
    tiles_1 = gl.maximum((own_1 + BLOCKS - 1) // BLOCKS, least)
    return Pair(
        head // heads, head % heads, head, tile * QUERY_TILE, ids, width, nk,
        own_0, own_1, tiles_0, tiles_1, shared,
    )  # fmt: skip


@gluon.jit
def block_at(pair, half, own, place, BLOCKS: gl.constexpr):
    """Return the block of keys at a place of one of the lists, of which the neighbour lacks the first ``own`` ones."""
    count = own + BLOCKS * pair.shared
    whole = count == pair.nk
    listed = gl.load(pair.ids + half * pair.width + place, mask=(place < count) & ~whole, other=0).to(gl.int32)
    return gl.where(whole, gl.where(place < own, place + BLOCKS * pair.shared, place - own), listed)


@gluon.jit
def tiles_of(pair):
    """Count the tiles that are loaded for a pair."""
    return pair.tiles_0 + pair.tiles_1 + pair.shared


@gluon.jit
def rounds_of(pair):
    """Count the rounds of a pair."""
    return gl.maximum(pair.tiles_0, pair.tiles_1) + pair.shared


@gluon.jit
def is_apart(pair, r, before):
    """Tell whether each has a tile of its own in a round, ``before`` of which came before it.

    They come between the tiles that both keep, because they ask twice as much of the memory.
    """
    both = gl.minimum(pair.tiles_0, pair.tiles_1)
    turn = r - (gl.maximum(pair.tiles_0, pair.tiles_1) - both)
    return gl.where((turn >= 0) & ((turn + 1) * both > before * (both + pair.shared)), 1, 0)


@gluon.jit
def places(pair, r, before, half, apart, BLOCKS: gl.constexpr):
    """Return where the tile is that is loaded in a round: whose list, its own blocks, first and last place.

    If they have tiles of their own, ``half`` says whose it is. All arguments but ``pair``, and all results, are integer
    scalars. A place counts the blocks of a list from its front, and a tile has ``BLOCKS`` places.
    """
    longer, both = gl.maximum(pair.tiles_0, pair.tiles_1), gl.minimum(pair.tiles_0, pair.tiles_1)
    passing = r < longer - both
    half = gl.where(passing, gl.where(pair.tiles_1 > pair.tiles_0, 1, 0), half)
    own = gl.where(half == 0, pair.own_0, pair.own_1)
    alone = passing | (apart == 1)
    i = gl.where(passing, longer - 1 - r, both - 1 - before)
    first = gl.where(alone, BLOCKS * i, own + BLOCKS * (pair.shared - 1 - (r - (longer - both) - before)))
    first = gl.maximum(first, 0)  # beyond the last round
    last = gl.where(alone, gl.maximum(own - 1, 0), first + BLOCKS - 1)
    return half, own, first, last


@gluon.jit
def next_load(pair, r, before, half, apart):
    """Return the round, the rounds apart before it, whose tile, and whether it is apart, of the load behind one."""
    ended = (half == 1) | (apart == 0)
    r, before = gl.where(ended, r + 1, r), gl.where(ended, before + apart, before)
    return r, before, gl.where(ended, 0, 1), is_apart(pair, r, before)


@gluon.jit
def of_half(pair, HALF: gl.constexpr):
    """Return how many blocks one of the two keeps alone, their tiles, and the other one's: integer scalars."""
    own, mine, theirs = pair.own_0, pair.tiles_0, pair.tiles_1
    if HALF == 1:
        own, mine, theirs = pair.own_1, pair.tiles_1, pair.tiles_0
    return own, mine, theirs


@gluon.jit
def await_tile(full, slot, STAGES: gl.constexpr):
    """Wait until a tile of this program is in shared memory."""
    mbarrier.wait(full.index(slot % STAGES), (slot // STAGES) & 1)


@gluon.jit
def free_tile(empty, slot, STAGES: gl.constexpr):
    """Say that this warpgroup is through with a tile."""
    mbarrier.arrive(empty.index(slot % STAGES), count=1)


@gluon.jit
def pass_tile(full, empty, slot, STAGES: gl.constexpr, pred=True):
    """Let the other one's tile pass: free it as soon as it is there, so that no phase counts this warpgroup twice."""
    mbarrier.wait(full.index(slot % STAGES), (slot // STAGES) & 1, pred=pred)
    mbarrier.arrive(empty.index(slot % STAGES), count=1, pred=pred)


@gluon.jit
def await_turn(buffers, turn, HALF: gl.constexpr):
    """Wait for this warpgroup's turn at the tensor cores."""
    mbarrier.wait(buffers.pingpong_bars.index(HALF), (turn & 1) ^ (1 - HALF))


@gluon.jit
def end_turn(buffers, HALF: gl.constexpr):
    """Leave the tensor cores to the other warpgroup."""
    mbarrier.arrive(buffers.pingpong_bars.index(1 - HALF), count=1)


@gluon.jit
def let_pass(buffers, pair, base, turns, STAGES: gl.constexpr, RUNNING: gl.constexpr, HALF: gl.constexpr):
    """Let the rounds pass in which only the other one has a tile, and return their number, an integer scalar.

    ``base`` is the number of tiles that this program has loaded before the pair, and ``turns`` that of its turns at
    the tensor cores: integer scalars too. ``buffers`` holds ``STAGES`` tiles of keys and of values in shared memory.
    """
    _, mine, theirs = of_half(pair, HALF)
    passed = gl.maximum(theirs - mine, 0)
    for r in range(passed):
        pass_tile(buffers.k_full, buffers.k_empty, base + r, STAGES)
        pass_tile(buffers.v_full, buffers.v_empty, base + r, STAGES)
        if not RUNNING:
            await_turn(buffers, turns + r, HALF)
            end_turn(buffers, HALF)
    return passed
