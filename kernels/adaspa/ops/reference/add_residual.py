"""Addition of a residual, in PyTorch."""

import torch


def add_residual(out: torch.Tensor, residual: torch.Tensor, block: int, weight: float) -> None:
    """`adaspa.ops.add_residual`."""
    whole = out.shape[2] // block
    out[:, :, : whole * block].unflatten(2, (whole, block)).add_(residual[:, :, :whole].unsqueeze(3), alpha=weight)
    out[:, :, whole * block :].add_(residual[:, :, whole:], alpha=weight)
