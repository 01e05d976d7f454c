"""Rotary embedding of queries and keys in interleaved pairs, in one pass over the memory."""

from __future__ import annotations

import torch

from adaspa.ops.dispatch import triton_runs_on


def rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """``(x0 cos - x1 sin, x0 sin + x1 cos)`` of every pair of channels ``(x0, x1)``, computed in fp32.

    Args:
        x: ``[B, S, H, D]``.
        cos, sin: ``[S, D / 2]``, each angle once; the same for all heads.

    Returns:
        ``[B, S, H, D]`` in the dtype of x, contiguous.

    Raises:
        ValueError: when the tables do not have the tokens and pairs of x.
    """
    if x.ndim != 4 or x.shape[3] % 2:
        raise ValueError(f"x must be [B, S, H, D] with an even D, got {tuple(x.shape)}")
    for name, table in (("cos", cos), ("sin", sin)):
        if table.shape != (x.shape[1], x.shape[3] // 2) or table.device != x.device:
            raise ValueError(
                f"{name} must be [{x.shape[1]}, {x.shape[3] // 2}] on {x.device} for x {tuple(x.shape)}, "
                f"got {tuple(table.shape)} on {table.device}"
            )
    if triton_runs_on(x) and x.dtype != torch.float64:
        from adaspa.ops.kernels.rotary import rotary as kernel  # noqa: PLC0415 - works without Triton

        return kernel(x, cos, sin)
    return reference(x, cos.unsqueeze(1), sin.unsqueeze(1))


def reference(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The operation in PyTorch, with tables that broadcast over ``[B, S, H, D / 2]``."""
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).type_as(x)
