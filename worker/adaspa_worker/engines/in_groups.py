"""Group offload: weights lie in host memory, and each block's come to the GPU while the block before it computes."""

from collections.abc import Iterable
from itertools import chain
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PAGESIZE, mmap
from typing import Any

import torch
from diffusers.hooks import apply_group_offloading
from torch import nn

HOST = torch.device("cpu")
ENCODERS = ("text_encoder", "image_encoder")
"""Prefixes of the names of a pipeline's encoders."""


def place(pipe: Any, transformers: Iterable[nn.Module], device: torch.device) -> None:
    """Put a pipeline's parts where they are to be: all but transformers and encoders on the device."""
    offloaded = set(transformers)
    for transformer in offloaded:
        offload(transformer, device)
    for name, part in pipe.components.items():
        if not isinstance(part, nn.Module) or part in offloaded:
            continue
        if name.startswith(ENCODERS):
            offload_encoder(part, device)
        else:
            part.to(device)


def offload(transformer: Any, device: torch.device) -> None:
    """Keep a transformer's blocks in host memory, pinned; two of them at a time are on the device."""
    _apply(transformer, device, "block_level", num_blocks_per_group=1)


def offload_encoder(encoder: nn.Module, device: torch.device) -> None:
    """Offload a text or image encoder layer by layer, because diffusers finds no blocks in it."""
    _apply(encoder, device, "leaf_level")


def _apply(module: nn.Module, device: torch.device, level: str, **options: int) -> None:
    streams = device.type == "cuda"
    if streams:  # else diffusers pins a second copy of all weights before it lets go of the first
        for weight in chain(module.parameters(), module.buffers()):
            pin(weight)
    apply_group_offloading(
        module,
        onload_device=device,
        offload_device=HOST,
        offload_type=level,
        non_blocking=streams,
        use_stream=streams,
        record_stream=streams,
        **options,
    )


def pin(weight: torch.Tensor) -> None:
    """Move a weight to pinned host memory of its own size.

    PyTorch's own pinned memory would round the size up to a power of two.

    Raises:
        RuntimeError: CUDA cannot lock so much memory.
    """
    if weight.nbytes == 0 or weight.is_pinned():
        return
    pages = Pages(-1, -(-weight.nbytes // PAGESIZE) * PAGESIZE, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    there = torch.frombuffer(pages, dtype=weight.dtype, count=weight.numel()).view(weight.shape)
    pages.lock(there.data_ptr())
    weight.data = there.copy_(weight)


class Pages(mmap):
    """Pages of host memory that CUDA has locked as long as they exist."""

    def lock(self, address: int) -> None:
        """Lock them. Raises RuntimeError."""
        cuda = torch.cuda.cudart()
        torch.cuda.check_error(cuda.cudaHostRegister(address, len(self), 0))
        self._locked, self._unlock = address, cuda.cudaHostUnregister

    def __del__(self) -> None:
        if hasattr(self, "_locked"):
            self._unlock(self._locked)


def resident(transformer: nn.Module) -> int:
    """Bytes of a transformer's weights on the device at most: two blocks, and all that is in none."""
    lists = [part for part in transformer.children() if isinstance(part, nn.ModuleList)]
    blocks = [size(block.parameters()) for part in lists for block in part]
    return size(transformer.parameters()) - sum(blocks) + sum(sorted(blocks)[-2:])


def size(parameters: Iterable[torch.Tensor]) -> int:
    """Bytes of weights."""
    return sum(parameter.nbytes for parameter in parameters)
