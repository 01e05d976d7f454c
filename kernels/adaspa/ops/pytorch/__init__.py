"""PyTorch's own fused attention, on any device."""

import torch

from adaspa.ops.call import Call
from adaspa.ops.device import HALF, MAX_HEAD_DIM


def takes(call: Call) -> bool:
    """Tell whether a call runs here: dense attention; with its LSE, if a kernel of PyTorch returns it."""
    if call.op == "attention":
        return True
    q = call.tensors[0]
    return call.op == "dense_attention" and (q.device.type == "cpu" or uses_flash(q) or uses_efficient(q))


def uses_flash(q: torch.Tensor) -> bool:
    """True for what PyTorch's FlashAttention takes."""
    return q.is_cuda and q.dtype in HALF and q.shape[-1] % 8 == 0 and q.shape[-1] <= MAX_HEAD_DIM


def uses_efficient(q: torch.Tensor) -> bool:
    """True for what PyTorch's memory-efficient attention takes in full precision."""
    return q.is_cuda and q.dtype == torch.float32 and q.shape[-1] % 4 == 0
