"""How a kernel is launched: computed from shapes and device, so that no request waits for autotuning."""

from functools import cache

import torch
import triton
from triton.tools.tensor_descriptor import TensorDescriptor

from adaspa.ops.triton.tiles import head_tile


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


def tile_operand(x: torch.Tensor, rows: int, use_tma: bool) -> torch.Tensor | TensorDescriptor:
    """What a kernel loads tiles of ``rows`` rows of ``[B, H, S, D]`` from."""
    if not use_tma:
        return x
    return TensorDescriptor(x, list(x.shape), list(x.stride()), [1, 1, rows, head_tile(x.shape[-1])])


@cache
def _shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program may have."""
    if device.type == "cpu":
        return 2**16  # the interpreter has none to run out of
    index = torch.cuda.current_device() if device.index is None else device.index
    return int(triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"])
