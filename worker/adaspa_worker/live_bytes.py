"""Peak bytes of the tensors in a computation, found without running it.

The computation runs on meta tensors, which have shapes and no memory: every operation tells what it makes, and Python
tells when nothing holds that any more. What PyTorch's allocator would hold on a GPU is the same, but for the operations
that need room of their own inside a kernel. Of those two count: attention, whose scores no fast kernel stores, and
convolutions, for which cuDNN copies input and output to put their channels last.

What depends on values is assumed to be as large as it can be: a mask selects everything, and its inverse nothing.
"""

import weakref
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROUND = 512
"""PyTorch's allocator gives memory in multiples of it."""
META = torch.device("meta")
NOTHING = "selects_nothing"
"""Attribute of a mask that is false everywhere."""


@dataclass(frozen=True)
class Attention:
    """One call of attention: queries [batch, heads, rows, ...], how many keys each has, and the queries' bytes."""

    batch: int
    heads: int
    rows: int
    keys: int
    bytes: int


@dataclass(frozen=True)
class Measured:
    """Memory that a computation would take.

    Args:
        peak: bytes beside what was there before.
        attention: its calls of attention.
    """

    peak: int
    attention: tuple[Attention, ...]


def measured(run: Callable[[], object], there: Iterable[Tensor]) -> Measured:
    """Measure a computation on meta tensors.

    Args:
        run: the computation.
        there: tensors that exist before and after it, such as weights and inputs; they do not count.
    """
    live, assumed = _Live(there), _Assumed()
    with ExitStack() as stack:
        for context in (torch.no_grad(), META, assumed, live):
            stack.enter_context(context)
        run()
    return Measured(live.peak, tuple(assumed.calls))


class _Live(TorchDispatchMode):
    """Adds up the bytes of the storages that operations make, and takes them off when they go."""

    def __init__(self, there: Iterable[Tensor]) -> None:
        super().__init__()
        self._there = [tensor.untyped_storage() for tensor in there]
        self._known = {storage._cdata for storage in self._there}
        self._now = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._hold(tensor.untyped_storage())
        own = args[0].nbytes + out.nbytes if func is torch.ops.aten.convolution.default else 0
        self.peak = max(self.peak, self._now + own)
        return out

    def _hold(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._known:
            return
        size = -(-storage.nbytes() // ROUND) * ROUND
        self._known.add(storage._cdata)
        self._now += size
        weakref.finalize(storage, self._let_go, storage._cdata, size)

    def _let_go(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


class _Assumed(TorchFunctionMode):
    """Assumptions about what meta tensors do not tell by themselves.

    Attention makes its output alone, as fast kernels do, where PyTorch would make all scores. Masks are true
    everywhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Attention] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func is scaled_dot_product_attention:
            return self._attend(*args, **given)
        if func is Tensor.__bool__:
            return True
        if func is torch.nonzero:
            return args[0].new_empty((args[0].numel(), args[0].ndim), dtype=torch.long)
        if func is Tensor.__getitem__ and isinstance(args[1], Tensor) and args[1].dtype is torch.bool:
            return args[0][:0] if hasattr(args[1], NOTHING) else args[0].clone()
        found = func(*args, **given)
        if func is Tensor.__invert__:
            setattr(found, NOTHING, True)
        return found

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, *_rest: Any, **_options: Any) -> Tensor:
        *batch, heads, rows, _ = query.shape
        self.calls.append(Attention(batch[0] if batch else 1, heads, rows, key.shape[-2], query.nbytes))
        return query.new_empty((*query.shape[:-1], value.shape[-1]))
