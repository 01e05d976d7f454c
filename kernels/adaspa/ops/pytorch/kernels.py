"""Kernels of PyTorch. `scaled_dot_product_attention` keeps the LSE to itself; those under it return it."""

import torch
import torch.nn.functional as F

from adaspa.ops.pytorch import uses_flash


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """`adaspa.ops.attention` on checked arguments."""
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def dense_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`adaspa.ops.dense_attention` on checked arguments."""
    if q.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=scale)
    elif uses_flash(q):
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)[:2]
    else:
        out, lse = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True, scale=scale)[:2]
        lse = lse[..., : q.shape[2]]
    return out, lse
