# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Selection of the heaviest blocks of a row without sorting: one program per row finds their threshold bit by bit."""

import torch
import triton
import triton.language as tl

from adaspa.ops.reference.keep_blocks import LEAST_MASS
from adaspa.ops.triton.launch import Launcher

LEAST = tl.constexpr(LEAST_MASS)


@triton.jit(do_not_specialize=["nq", "nk", "width", "text_start", "text_stop", "rows_start", "rows_stop"])
def keep_blocks_kernel(
    block_mass, limits, ids, counts, shares, nq, nk, width, text_start, text_stop, rows_start, rows_stop,
    BLOCKS: tl.constexpr, RULE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCKS)
    inside = column < nk
    weight = tl.load(block_mass + row * nk + column, mask=inside, other=0.0)
    mass = tl.sum(weight, 0)
    # A row that tells nothing is kept whole; what is reckoned from it must only be numbers.
    known = (mass > LEAST) & (mass < float("inf"))
    weight = tl.where(known, weight, 0.0)
    mass = tl.where(known, mass, 1.0)
    ranking = tl.where((column >= text_start) & (column < text_stop), float("inf"), weight)
    # The bits of floats that are not negative order as the floats do.
    bits = tl.where(inside, ranking.to(tl.int32, bitcast=True), -1)
    limit = tl.load(limits + row // nq)
    threshold = tl.full([], 0, tl.int32)
    if RULE == "gain":
        # The largest threshold that weighs too little beside all above it, and what lies above.
        for i in range(0, 31):
            tried = threshold | (1 << (30 - i))
            heavier = tl.sum(tl.where(bits > tried, weight, 0.0), 0)
            threshold = tl.where(tried.to(tl.float32, bitcast=True) < limit * heavier, tried, threshold)
        kept = bits > threshold
        # Of equal blocks, the lightest that are kept, there may be too many.
        lightest = tl.min(tl.where(kept & inside, bits, 0x7F800000), 0)
        above = bits > lightest
        equal = kept & (bits == lightest)
        each = lightest.to(tl.float32, bitcast=True)
        most = each / tl.maximum(limit, 1e-30)  # of those before a block of this weight
        room = (most - tl.sum(tl.where(above, weight, 0.0), 0)) / tl.where(each > 0, each, 1.0)
        needed = tl.where(lightest >= 0x7F800000, nk, tl.minimum(tl.floor(room), 65536.0).to(tl.int32) + 1)
        kept = above | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= tl.maximum(needed, 1)))
    else:
        value = weight if RULE == "mass" else inside.to(tl.float32)
        if RULE == "mass":
            limit *= mass
        # The largest threshold at or above which there is enough.
        for i in range(0, 31):
            tried = threshold | (1 << (30 - i))
            threshold = tl.where(tl.sum(tl.where(bits >= tried, value, 0.0), 0) >= limit, tried, threshold)
        above = bits > threshold
        equal = bits == threshold
        missing = limit - tl.sum(tl.where(above, value, 0.0), 0)
        each = tl.max(tl.where(equal, value, 0.0), 0)
        # Blocks of text are equal in rank, whatever they weigh, and all of them are kept.
        needed = tl.where(threshold >= 0x7F800000, nk, tl.ceil(missing / tl.where(each > 0, each, 1.0)).to(tl.int32))
        kept = above | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= tl.maximum(needed, 1)))
    query = (row % nq).to(tl.int32)
    whole = ((query >= rows_start) & (query < rows_stop)) | (known == 0)
    count = tl.where(whole, nk, tl.sum(kept.to(tl.int32), 0))
    whole = count == nk
    tl.store(counts + row, count)
    tl.store(shares + row, tl.where(whole, 1.0, tl.sum(tl.where(kept, weight, 0.0), 0) / mass))
    place = tl.cumsum(kept.to(tl.int32), 0) - 1
    tl.store(ids + row * width + place, column.to(tl.int16), mask=kept & (place < width) & (count < nk))


launch_keep_blocks = Launcher(keep_blocks_kernel)


def keep_blocks(
    block_mass: torch.Tensor, limits: torch.Tensor, rule: str, text: list[int], width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`adaspa.ops.keep_blocks` on fp32 block mass; ``text`` holds start and stop of the text's key and query blocks."""
    block_mass = block_mass.contiguous()
    *rows, nk = block_mass.shape
    ids = torch.zeros(*rows, width, dtype=torch.int16, device=block_mass.device)
    counts = torch.empty(rows, dtype=torch.int32, device=block_mass.device)
    shares = torch.empty(rows, dtype=torch.float32, device=block_mass.device)
    blocks = triton.next_power_of_2(nk)
    launch_keep_blocks(
        (counts.numel(), 1, 1),
        block_mass, limits.float().contiguous(), ids, counts, shares, rows[2], nk, width, *text,
        BLOCKS=blocks, RULE=rule, num_warps=4 if blocks <= 2**12 else 8,
    )  # fmt: skip
    return ids, counts, shares
