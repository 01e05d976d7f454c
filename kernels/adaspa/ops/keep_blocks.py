"""Selection of the heaviest blocks of each row of block mass, straight to the lists of a block index."""

from typing import Literal, get_args

import torch

from adaspa.ops import backends
from adaspa.ops.call import Call
from adaspa.ops.operation import operation

Rule = Literal["count", "mass", "gain"]


def keep_blocks(
    block_mass: torch.Tensor, limits: torch.Tensor, *, rule: Rule, text: range, text_rows: range, width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """List the heaviest key blocks of each row, of equal ones the first; blocks of ``text`` before all others.

    A row whose sum is NaN, infinite or next to nothing tells nothing of its blocks, and keeps everything.

    Args:
        block_mass: fp32 ``[B, H, nq, nk]``, none negative.
        limits: fp32 ``[B, H]``, what ``rule`` makes of them.
        rule: ``count``: each row keeps this number of blocks; ``mass``: the fewest that hold this share of its mass;
            ``gain``: the heaviest ones, as long as the next weighs at least this share of those before it together.
        text: the key blocks that every row keeps.
        text_rows: the query blocks that keep everything.
        width: entries of a list; 0 where only counts and shares are wanted. Blocks beyond it are not listed.

    Returns:
        ids int16 ``[B, H, nq, width]`` in ascending order, padded with 0, not written for rows that keep everything;
        counts int32 ``[B, H, nq]``; and the share of each row's mass that it keeps, fp32 ``[B, H, nq]``.

    Raises:
        ValueError: when there is no such rule, or a tensor has another shape or device.
    """
    if rule not in get_args(Rule):
        raise ValueError(f"rule must be one of {get_args(Rule)}, got {rule!r}")
    if block_mass.ndim != 4:
        raise ValueError(f"block_mass must be [B, H, nq, nk], got {tuple(block_mass.shape)}")
    if limits.shape != block_mass.shape[:2] or limits.device != block_mass.device:
        raise ValueError(
            f"limits must be {tuple(block_mass.shape[:2])} on {block_mass.device} like block_mass, got "
            f"{tuple(limits.shape)} on {limits.device}"
        )
    bounds = [text.start, text.stop, text_rows.start, text_rows.stop]
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _run(block_mass.float(), limits, rule, bounds, width)
    return found


@operation("adaspa::keep_blocks")
def _run(
    block_mass: torch.Tensor, limits: torch.Tensor, rule: str, text: list[int], width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    call = Call("keep_blocks", (block_mass,))
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = backends.run(call, block_mass, limits, rule, text, width)
    return found


@_run.register_fake
def _(
    block_mass: torch.Tensor, limits: torch.Tensor, rule: str, text: list[int], width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = block_mass.shape[:3]
    ids = block_mass.new_empty((*rows, width), dtype=torch.int16)
    return ids, block_mass.new_empty(rows, dtype=torch.int32), block_mass.new_empty(rows, dtype=torch.float32)
