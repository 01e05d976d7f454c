"""Whether an operation runs as a Triton kernel or as its PyTorch reference."""

from __future__ import annotations

from importlib.util import find_spec

import torch

MAX_HEAD_DIM = 256
TRITON_IS_INSTALLED = find_spec("triton") is not None


def uses_triton(q: torch.Tensor) -> bool:
    """True for fp16 and bf16 tensors on a GPU, with a head_dim of up to 256, where Triton is installed.

    fp32 on a GPU keeps its full precision in the reference.
    """
    return (
        q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] <= MAX_HEAD_DIM and TRITON_IS_INSTALLED
    )


def has_hopper_kernel(*tensors: torch.Tensor) -> bool:
    """True for what our kernels for Hopper GPUs take: fp16 or bf16 of head_dim 64 or 128, in a layout for TMA."""
    if not all(uses_triton(x) for x in tensors):
        return False
    from adaspa.ops.kernels.launch import runs_on_hopper  # noqa: PLC0415 - works without Triton

    return runs_on_hopper(*tensors)


def triton_runs_on(x: torch.Tensor) -> bool:
    """True for tensors on a GPU where Triton is installed."""
    return x.is_cuda and TRITON_IS_INSTALLED
