"""Rotary embedding of queries and keys in interleaved pairs, in one pass over the memory."""

import torch

from adaspa.ops import backends
from adaspa.ops.call import Call
from adaspa.ops.operation import operation


def rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """``(x0 cos - x1 sin, x0 sin + x1 cos)`` of every pair of channels ``(x0, x1)``, computed in fp32.

    Args:
        x: ``[B, S, H, D]``.
        cos, sin: each angle once; ``[S, D / 2]``, the same for all heads, or ``[B, S, H, D / 2]``.

    Returns:
        ``[B, S, H, D]`` in the dtype of x, contiguous.

    Raises:
        ValueError: when the tables do not have the tokens and pairs of x.
    """
    if x.ndim != 4 or x.shape[3] % 2:
        raise ValueError(f"x must be [B, S, H, D] with an even D, got {tuple(x.shape)}")
    pairs = (*x.shape[:3], x.shape[3] // 2)
    for name, table in (("cos", cos), ("sin", sin)):
        if table.shape not in ((pairs[1], pairs[3]), pairs) or table.device != x.device:
            raise ValueError(
                f"{name} must be [{pairs[1]}, {pairs[3]}] or {list(pairs)} on {x.device} for x {tuple(x.shape)}, "
                f"got {tuple(table.shape)} on {table.device}"
            )
    turned: torch.Tensor = _run(x, cos, sin)
    return turned


@operation("adaspa::rotary")
def _run(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    turned: torch.Tensor = backends.run(Call("rotary", (x,)), x, cos, sin)
    return turned


@_run.register_fake
def _(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)
