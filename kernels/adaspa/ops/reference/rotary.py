"""Rotary embedding of interleaved pairs, in PyTorch."""

import torch


def rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`adaspa.ops.rotary`."""
    dtype = torch.promote_types(cos.dtype, torch.float32)
    tables = (table.to(dtype) for table in (cos, sin))
    return rotate_pairs(x, *(table.unsqueeze(1) if table.ndim == 2 else table for table in tables))


def rotate_pairs(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate with tables that broadcast over ``[B, S, H, D / 2]``."""
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).type_as(x)
