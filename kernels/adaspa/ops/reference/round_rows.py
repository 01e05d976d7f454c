"""Activation and rounding of rows to e4m3, in PyTorch."""

import torch
import torch.nn.functional as F

from adaspa.ops.e4m3 import E4M3, LEAST_SCALE, MOST


def round_rows(x: torch.Tensor, before: torch.Tensor, activation: str) -> tuple[torch.Tensor, torch.Tensor]:
    """`adaspa.ops.round_rows` on checked arguments."""
    x = x.float()
    if activation == "gelu_tanh":
        x = F.gelu(x, approximate="tanh")
    elif activation == "swiglu":
        value, gate = x.chunk(2, dim=1)
        x = value * F.silu(gate)
    rows = torch.cat((before.float(), x), dim=1)
    scales = (rows.abs().amax(dim=1, keepdim=True) / MOST).clamp(min=LEAST_SCALE)
    return (rows / scales).clamp(-MOST, MOST).to(E4M3), scales
