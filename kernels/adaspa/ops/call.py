"""One call of an operation, as a backend is asked about it."""

from collections.abc import Hashable
from typing import Literal, NamedTuple

import torch

MAX_KINDS = 4096
"""Number of kinds of calls of which something is remembered: shapes and layouts of tensors, and few bytes each."""

Precision = Literal["full", "int8_fp8"]


class Call(NamedTuple):
    """An operation and what decides which kernel can run it.

    Args:
        op: name of the operation.
        tensors: those that the kernel loads tiles from, q first.
        query_block, key_block: tokens in a block; 0 for an operation without blocks.
        query_stride: rows between two query rows that are scored.
        precision: of the products: ``full``, that of the tensors, or ``int8_fp8``.
    """

    op: str
    tensors: tuple[torch.Tensor, ...]
    query_block: int = 0
    key_block: int = 0
    query_stride: int = 1
    precision: str = "full"

    @property
    def kind(self) -> Hashable:
        """Return all that decides which kernel can run the call."""
        q = self.tensors[0]
        kind: list[Hashable] = [self.op, self.query_block, self.key_block, self.query_stride, self.precision]
        kind += (q.dtype, q.device)
        for x in self.tensors:
            kind += (x.shape, x.stride(), x.data_ptr() % 16)
        return tuple(kind)
