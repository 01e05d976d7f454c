"""Launch settings of kernels, computed from shapes and device so that no request waits for autotuning."""

from functools import cache
from typing import Any

import torch
import triton
from triton.compiler import CompiledKernel
from triton.tools.tensor_descriptor import TensorDescriptor

from adaspa.ops.triton.tiles import head_tile

NUMBERS = (int, float)
MAX_KINDS = 4096
"""Kinds of calls of a kernel that are remembered: a shape and layout of the tensors each, and few bytes."""


class Launcher:
    """A kernel that Triton looks up once for each kind of call.

    Triton finds the compiled kernel of a launch by a look at every argument, which takes longer than a short sequence
    on the GPU. Here the kernel that it found is kept under all that it had looked at.

    Args:
        kernel: a function of `triton.jit` or `gluon.jit`, its constants last.
    """

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self._found: dict[tuple[Any, ...], tuple[CompiledKernel, list[Any]]] = {}

    def __call__(self, programs: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        """Launch on the device of the first tensor, and its current stream.

        Args:
            programs: in the three dimensions of the grid.
            arguments: tensors, tensor descriptors and numbers.
            constants: of the compilation, and Triton's options.
        """
        first = getattr(arguments[0], "base", arguments[0])
        kind, passed = [first.device, *constants.values()], []
        for x in arguments:
            if isinstance(x, torch.Tensor):
                pointer = x.data_ptr()
                kind += (x.dtype, pointer % 16 == 0)
                passed.append(pointer)
            else:
                kind += (x,) if isinstance(x, NUMBERS) else (x.base.dtype, *x.block_shape)
                passed.append(x)
        key = tuple(kind)
        with torch.cuda.device_of(first):
            known = self._found.get(key)
            if known is not None:
                compiled, values = known
                compiled[programs](*passed, *values)
                return
            compiled = self.kernel[programs](*arguments, **constants)
            # The interpreter compiles nothing.
            if isinstance(compiled, CompiledKernel):
                if len(self._found) >= MAX_KINDS:
                    self._found.clear()
                names = self.kernel.arg_names[len(arguments) :]
                self._found[key] = compiled, [constants[name] for name in names]


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


class Unchecked:
    """Makes a descriptor go without Triton's checks, which `can_use_tma` has made."""

    def __post_init__(self) -> None:
        pass


class TileDescriptor(Unchecked, TensorDescriptor):
    """A descriptor of tiles as Triton loads them."""


def tile_operand(x: torch.Tensor, rows: int, use_tma: bool) -> torch.Tensor | TensorDescriptor:
    """Return what a kernel loads tiles of ``rows`` rows of ``[B, H, S, D]`` from."""
    if not use_tma:
        return x
    return TileDescriptor(x, list(x.shape), list(x.stride()), [1, 1, rows, head_tile(x.shape[-1])])


@cache
def _shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program may have."""
    if device.type == "cpu":
        return 2**16  # the interpreter has none to run out of
    index = torch.cuda.current_device() if device.index is None else device.index
    return int(triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"])
