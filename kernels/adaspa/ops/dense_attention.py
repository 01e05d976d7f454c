"""Dense attention that also gives the LSE."""

from __future__ import annotations

import torch

from adaspa.ops.check import check_qkv, softmax_scale
from adaspa.ops.dispatch import MAX_HEAD_DIM, has_hopper_kernel


def dense_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """``softmax(q k^T * scale) v`` and the LSE of every query row.

    By our kernel on Hopper GPUs, elsewhere by PyTorch's own fused ones.

    Args:
        q: ``[B, H, Sq, D]``, any strides.
        k, v: ``[B, H, Sk, D]``.
        scale: factor of q.k; ``D ** -0.5`` by default.

    Returns:
        out ``[B, H, Sq, D]`` in the dtype of q, and the natural-log LSE ``[B, H, Sq]`` (fp32; fp64 for fp64 inputs).

    Raises:
        ValueError: when shapes, dtypes or devices do not match.
    """
    check_qkv(q, k, v)
    scale = softmax_scale(scale, q)
    if has_hopper_kernel(q, k, v):
        from adaspa.ops.kernels.hopper.attention import dense_attention as kernel  # noqa: PLC0415 - works without Triton

        return kernel(q, k, v, scale)
    # scaled_dot_product_attention keeps the LSE to itself; the kernels under it return it.
    if q.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=scale)
    elif uses_flash(q):
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)[:2]
    elif q.device.type == "cuda" and q.dtype == torch.float32 and q.shape[-1] % 4 == 0:
        out, lse = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True, scale=scale)[:2]
        lse = lse[..., : q.shape[2]]
    else:
        from adaspa.ops.attention_with_scores import reference  # noqa: PLC0415 - the two references share one loop

        out, _, lse = reference(q, k, v, None, query_block=128, block=128, scale=scale)
    return out, lse


def uses_flash(q: torch.Tensor) -> bool:
    """True for what PyTorch's FlashAttention takes."""
    half = q.dtype in (torch.float16, torch.bfloat16)
    return q.device.type == "cuda" and half and q.shape[-1] % 8 == 0 and q.shape[-1] <= MAX_HEAD_DIM
