"""Which kernel runs an operation: the first backend that takes the call.

A new backend is a package with ``takes(call)`` in its ``__init__``, a module ``kernels`` with a function for each
operation that it takes, named as the operation, and a line in `BACKENDS`.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from adaspa.ops import hopper, pytorch, reference, triton
from adaspa.ops.call import Call

KernelCounts = Counter[tuple[str, str]]
"""Calls by operation and backend."""


@dataclass(frozen=True)
class Backend:
    """A set of kernels.

    Args:
        name: of its package in ``adaspa.ops``.
        takes: whether it runs a call; asked without importing its kernels.
        needs_lse: whether its ``attention_with_block_mass`` takes a dense pass of its own where no LSE is given.
    """

    name: str
    takes: Callable[[Call], bool]
    needs_lse: bool = True

    def kernel(self, op: str) -> Callable[..., Any]:
        """Its function for an operation. Its kernels are imported now, so that the library works without Triton."""
        function: Callable[..., Any] = getattr(import_module(f"adaspa.ops.{self.name}.kernels"), op)
        return function


BACKENDS = (
    Backend("hopper", hopper.takes),
    Backend("triton", triton.takes),
    Backend("pytorch", pytorch.takes),
    Backend("reference", reference.takes, needs_lse=False),
)
_counts: ContextVar[KernelCounts | None] = ContextVar("adaspa_kernel_counts", default=None)


def pick(call: Call) -> Backend:
    """The backend that runs a call."""
    return next(backend for backend in BACKENDS if backend.takes(call))


def run(call: Call, *args: Any) -> Any:
    """Run an operation on checked arguments, by the backend that takes the call."""
    backend = pick(call)
    counts = _counts.get()
    if counts is not None:
        counts[call.op, backend.name] += 1
    return backend.kernel(call.op)(*args)


@contextmanager
def counted(counts: KernelCounts) -> Iterator[None]:
    """Count the operations of the enclosed work by the backend that ran them."""
    token = _counts.set(counts)
    try:
        yield
    finally:
        _counts.reset(token)
