"""Rotary embedding of interleaved pairs, in PyTorch."""

import torch


def rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`adaspa.ops.rotary`."""
    return rotate_pairs(x, *(table.unsqueeze(1) if table.ndim == 2 else table for table in (cos, sin)))


def rotate_pairs(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate with tables that broadcast over ``[B, S, H, D / 2]``."""
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).type_as(x)
