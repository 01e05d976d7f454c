"""Addition of a residual to the output of sparse attention, in one pass over the memory."""

import torch

from adaspa.index import BLOCK_SIZES, is_block_size
from adaspa.ops import backends
from adaspa.ops.call import Call
from adaspa.ops.operation import operation


def add_residual(out: torch.Tensor, residual: torch.Tensor, block: int, weight: float) -> None:
    """Add to the output of each query the residual of its block, in place; the sum is computed in fp32.

    Args:
        out: ``[B, H, S, D]``, any strides.
        residual: ``[B, H, ceil(S / block), D]`` in the dtype of out.
        block: queries in a block: 16, 32, 64 or 128; the last block may be partial.
        weight: of the residual.

    Raises:
        ValueError: for another block, and for a residual of another shape, dtype or device than the output asks for.
    """
    if not is_block_size(block):
        raise ValueError(f"block must be one of {BLOCK_SIZES}, got {block!r}")
    blocks = -(-out.shape[2] // block)
    wanted = (*out.shape[:2], blocks, out.shape[3])
    if residual.shape != wanted or residual.dtype != out.dtype or residual.device != out.device:
        raise ValueError(
            f"residual must be {list(wanted)} of {out.dtype} on {out.device} for out {tuple(out.shape)} in blocks of "
            f"{block}, got {tuple(residual.shape)} of {residual.dtype} on {residual.device}"
        )
    _run(out, residual, block, weight)


@operation("adaspa::add_residual", changes=("out",))
def _run(out: torch.Tensor, residual: torch.Tensor, block: int, weight: float) -> None:
    backends.run(Call("add_residual", (out, residual)), out, residual, block, weight)
