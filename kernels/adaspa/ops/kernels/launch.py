"""How a kernel is launched: computed from shapes and device, so that no request waits for autotuning."""

from __future__ import annotations

from functools import cache

import torch
import triton
from triton.tools.tensor_descriptor import TensorDescriptor

from adaspa.ops.kernels.tiles import head_tile


def launch_options(rows: int, keys: int, q: torch.Tensor, four_warps_hold: int = 2**13) -> dict[str, int]:
    """Warps and pipeline stages for a tile of ``rows`` query rows against ``keys`` keys.

    Four warps hold an accumulator of 64 rows x 128, or what the kernel says, in registers; a larger one would spill and
    takes eight. As many stages of keys and values as the shared memory of the device has room for beside the query
    tile, up to three.
    """
    width = head_tile(q.shape[-1])
    stage = 2 * keys * width * q.element_size()
    room = _shared_memory(q.device) - rows * width * q.element_size()
    return {"num_warps": 4 if rows * width <= four_warps_hold else 8, "num_stages": max(1, min(3, room // stage))}


def describable(*tensors: torch.Tensor) -> bool:
    """True where the device loads tiles by descriptor (TMA), and the layout of the tensors allows it.

    Elsewhere descriptors would be taken apart into loads that are not pipelined.
    """
    return all(
        _has_tma(x.device)
        and x.data_ptr() % 16 == 0
        and x.stride(-1) == 1
        and all(stride > 0 and stride * x.element_size() % 16 == 0 for stride in x.stride()[:3])
        for x in tensors
    )


def tile_source(x: torch.Tensor, rows: int, described: bool) -> torch.Tensor | TensorDescriptor:
    """What a kernel loads tiles of ``rows`` rows of ``[B, H, S, D]`` from."""
    if not described:
        return x
    return TensorDescriptor(x, list(x.shape), list(x.stride()), [1, 1, rows, head_tile(x.shape[-1])])


def runs_on_hopper(*tensors: torch.Tensor) -> bool:
    """True for what the kernels in ``hopper`` take: fp16 or bf16 of head_dim 64 or 128 on a Hopper GPU."""
    return all(
        _capability(x.device)[0] == 9 and x.dtype in (torch.float16, torch.bfloat16) and x.shape[-1] in (64, 128)
        for x in tensors
    ) and describable(*tensors)


def _has_tma(device: torch.device) -> bool:
    return _capability(device) >= (9, 0)


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    """The compute capability of an NVIDIA GPU; (0, 0) of anything else."""
    known = device.type == "cuda" and torch.version.hip is None
    return torch.cuda.get_device_capability(device) if known else (0, 0)


@cache
def _shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program may have."""
    if device.type == "cpu":
        return 2**16  # the interpreter has none to run out of
    index = torch.cuda.current_device() if device.index is None else device.index
    return int(triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"])
