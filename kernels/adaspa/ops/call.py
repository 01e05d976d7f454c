"""One call of an operation, as a backend is asked about it."""

from typing import NamedTuple

import torch


class Call(NamedTuple):
    """An operation and what decides which kernel can run it.

    Args:
        op: name of the operation.
        tensors: those that the kernel loads tiles from, q first.
        query_block, key_block: tokens in a block; 0 for an operation without blocks.
        query_stride: rows between two query rows that are scored.
    """

    op: str
    tensors: tuple[torch.Tensor, ...]
    query_block: int = 0
    key_block: int = 0
    query_stride: int = 1
