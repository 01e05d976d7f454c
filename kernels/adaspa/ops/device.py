"""Abilities of a device, and demands on the layout of tensors; asked without Triton."""

from functools import cache
from importlib.util import find_spec

import torch

MAX_HEAD_DIM = 256
HALF = (torch.float16, torch.bfloat16)
TRITON_IS_INSTALLED = find_spec("triton") is not None


def can_use_tma(*tensors: torch.Tensor) -> bool:
    """True if the device of the tensors loads tiles by descriptor (TMA), and their layout allows it.

    Elsewhere descriptors would be taken apart into loads that are not pipelined.
    """
    return capability(tensors[0].device) >= (9, 0) and all(_has_aligned_rows(x) for x in tensors)


def _has_aligned_rows(x: torch.Tensor) -> bool:
    """Tell whether every row of ``[B, H, S, D]`` is contiguous and begins at a multiple of 16 bytes."""
    batch, head, row, channel = x.stride()
    steps = (batch | head | row) * x.element_size()
    return channel == 1 and min(batch, head, row) > 0 and (x.data_ptr() | steps) % 16 == 0


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of an NVIDIA GPU; (0, 0) of anything else."""
    known = device.type == "cuda" and torch.version.hip is None
    return torch.cuda.get_device_capability(device) if known else (0, 0)


def unit_stride(x: torch.Tensor) -> torch.Tensor:
    """``x`` itself if its last dimension is contiguous, as from every projection, else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()
