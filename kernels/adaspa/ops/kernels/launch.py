"""How many warps and pipeline stages a kernel is launched with: computed, so that no request waits for autotuning."""

from __future__ import annotations

from functools import cache

import torch
import triton

from adaspa.ops.kernels.tiles import head_tile


def launch_options(rows: int, keys: int, q: torch.Tensor) -> dict[str, int]:
    """For a tile of ``rows`` query rows against ``keys`` keys.

    Four warps hold the accumulator of 64 rows x 128 in registers, larger ones spill and take eight. As many stages of
    keys and values as the shared memory of the device has room for beside the query tile, up to three.
    """
    width = head_tile(q.shape[-1])
    stage = 2 * keys * width * q.element_size()
    room = _shared_memory(q.device) - rows * width * q.element_size()
    return {"num_warps": 8 if rows * width > 2**13 else 4, "num_stages": max(1, min(3, room // stage))}


@cache
def _shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program may have."""
    if device.type == "cpu":
        return 2**16  # the interpreter has none to run out of
    index = torch.cuda.current_device() if device.index is None else device.index
    return int(triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"])
