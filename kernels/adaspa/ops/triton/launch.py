"""Launch settings of kernels, computed from shapes and device so that no request waits for autotuning."""

from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
from triton.compiler import CompiledKernel
from triton.runtime import driver
from triton.tools.tensor_descriptor import TensorDescriptor

from adaspa.ops.call import MAX_KINDS
from adaspa.ops.triton.tiles import head_tile


class Launch(NamedTuple):
    """Programs, numbers and constants of a launch, beside its descriptors and tensors.

    Args:
        programs: in the three dimensions of the grid.
        numbers: arguments behind the tensors.
        constants: of the compilation, and Triton's options.
    """

    programs: tuple[int, int, int]
    numbers: tuple[float, ...]
    constants: dict[str, Any]


class Launcher:
    """A kernel that Triton looks up once for each kind of call.

    Triton finds the compiled kernel of a launch by a look at every argument, which takes longer than a short sequence
    on the GPU. Here the kernel that it found is kept, with all that it is launched with but for addresses.

    Args:
        kernel: a function of `triton.jit` or `gluon.jit` of descriptors, tensors, numbers and constants, in this order.
    """

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self._found: dict[Hashable, tuple[CompiledKernel, tuple[int, int, int], tuple[Any, ...]]] = {}

    def __call__(self, programs: tuple[int, int, int], *arguments: Any, **constants: Any) -> None:
        """Launch on the device of the first tensor, and its current stream.

        Args:
            programs: in the three dimensions of the grid.
            arguments: descriptors, tensors and numbers.
            constants: of the compilation, and Triton's options.
        """
        data: list[Any] = [x for x in arguments if isinstance(x, torch.Tensor | Unchecked)]
        numbers = arguments[len(data) :]
        kind = (programs, numbers, *constants.values(), *[getattr(x, "base", x).dtype for x in data])
        self.as_before(kind, data, lambda: Launch(programs, numbers, constants))

    def as_before(self, kind: Hashable, data: Sequence[Any], launch: Callable[[], Launch]) -> None:
        """Launch as the first call of this kind.

        Args:
            kind: all that decides the launch, but for the device and whether addresses are aligned.
            data: descriptors, and at least one tensor at the end.
            launch: called for the first call of a kind.
        """
        passed = [x.data_ptr() if isinstance(x, torch.Tensor) else x for x in data]
        device = data[-1].device
        key = (kind, device, *[x % 16 for x in passed if isinstance(x, int)])
        with torch.cuda.device_of(data[-1]):
            if (found := self._found.get(key)) is not None:
                compiled, programs, rest = found
                stream = driver.active.get_current_stream(device.index)
                # As Triton calls it, but for its hooks, which cost as much as all the rest.
                given = (compiled.function, compiled.packed_metadata, None, None, None)
                compiled.run(*programs, stream, *given, *passed, *rest)
                return
            programs, numbers, constants = launch()
            compiled = self.kernel[programs](*data, *numbers, **constants)
            # The interpreter compiles nothing.
            if isinstance(compiled, CompiledKernel):
                if len(self._found) >= MAX_KINDS:
                    self._found.clear()
                names = self.kernel.arg_names[len(data) + len(numbers) :]
                self._found[key] = compiled, programs, (*numbers, *[constants[name] for name in names])


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
    """Descriptor without Triton's checks, which `can_use_tma` has made.

    Args:
        x: ``[B, H, S, D]``.
        block_shape: of the tiles that are loaded.
    """

    def __init__(self, x: torch.Tensor, block_shape: list[int]) -> None:
        self.base = x
        self.shape, self.strides = x.shape, x.stride()
        self.block_shape = block_shape


class TileDescriptor(Unchecked, TensorDescriptor):
    """A descriptor of tiles as Triton loads them."""


def tile_operand(x: torch.Tensor, rows: int, use_tma: bool) -> torch.Tensor | TensorDescriptor:
    """Return what a kernel loads tiles of ``rows`` rows of ``[B, H, S, D]`` from."""
    if not use_tma:
        return x
    return TileDescriptor(x, [1, 1, rows, head_tile(x.shape[-1])])


@cache
def _shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program may have."""
    if device.type == "cpu":
        return 2**16  # the interpreter has none to run out of
    index = torch.cuda.current_device() if device.index is None else device.index
    return int(triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"])
