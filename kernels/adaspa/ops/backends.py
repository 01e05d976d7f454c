"""Choice of the kernel that runs an operation: the first backend that takes the call.

A new backend is a package with ``takes(call)`` in its ``__init__``, a module ``kernels`` with a function for each
operation that it takes, named as the operation, and a line in `BACKENDS`.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import torch

from adaspa.ops import hopper, hopper_eight, pytorch, reference, reference_eight, triton
from adaspa.ops.call import MAX_KINDS, Call


class Ran(NamedTuple):
    """An operation as it ran.

    Args:
        op: name of the operation.
        backend: what ran it; ``diffusers: NAME`` where a backend of theirs was chosen.
        dtype: of q; the precision of the products where it was another.
        passed_over: which faster kernels of the device could not take the call, and why; empty as a rule.
    """

    op: str
    backend: str
    dtype: str
    passed_over: str = ""


KernelCounts = Counter[Ran]
"""Calls of the operations as they ran."""


@dataclass(frozen=True)
class Backend:
    """A set of kernels.

    Args:
        name: of its package in ``adaspa.ops``.
        takes: whether it runs a call; asked without importing its kernels.
        why_not: for a call that it does not take though it is meant for the device, what is in the way; else None.
        pays_from: the least size of a dense call, in query-key pairs times head_dim, from which sparse attention pays;
            0 where that was not measured.
        needs_lse: whether its ``attention_with_block_mass`` takes a dense pass of its own where no LSE is given.
        precision: of its products. No backend stands in for one of another precision.
    """

    name: str
    takes: Callable[[Call], bool]
    why_not: Callable[[Call], str | None] | None = None
    pays_from: float = 0.0
    needs_lse: bool = True
    precision: str = "full"

    def kernel(self, op: str) -> Callable[..., Any]:
        """Return the backend's function for an operation."""
        function: Callable[..., Any] = getattr(_kernels(self.name), op)
        return function


@cache
def _kernels(backend: str) -> ModuleType:
    """Import the kernels of a backend only when they are used, so that the library works without Triton."""
    return import_module(f"adaspa.ops.{backend}.kernels")


BACKENDS = (
    Backend("hopper", hopper.takes, hopper.why_not, hopper.PAYS_FROM),
    Backend("hopper_eight", hopper_eight.takes, hopper_eight.why_not, precision="int8_fp8"),
    Backend("triton", triton.takes, triton.why_not),
    Backend("pytorch", pytorch.takes),
    Backend("reference_eight", reference_eight.takes, precision="int8_fp8"),
    Backend("reference", reference.takes, needs_lse=False),
)
_found: dict[Hashable, tuple[tuple[Backend, ...], Backend, Callable[..., Any]]] = {}
_counts: ContextVar[KernelCounts | None] = ContextVar("adaspa_kernel_counts", default=None)


def pick(call: Call) -> Backend:
    """Pick the backend that runs a call.

    Raises:
        ValueError: naming the precision and the reason, where none has it here.
    """
    able = [backend for backend in BACKENDS if backend.precision == call.precision]
    for backend in able:
        if backend.takes(call):
            return backend
    why = _obstacles(able, call) or f"there is no kernel for {call.tensors[0].device.type}"
    raise ValueError(f"precision must be 'full' here, got {call.precision!r}: {why}")


def least_tokens(call: Call, heads: int) -> int:
    """Tokens from which sparse attention of such heads, in the blocks of ``call``, pays on its device; 0 where all do.

    Args:
        call: of ``block_sparse_attention``.
        heads: of the layer.
    """
    batch, _, _, head_dim = call.tensors[0].shape
    return math.ceil(math.sqrt(pick(call).pays_from / (batch * heads * head_dim)))


def run(call: Call, *args: Any) -> Any:
    """Run an operation on checked arguments, by the backend that takes the call."""
    backend, kernel = _picked(call)
    counts = _counts.get()
    if counts is not None:
        dtype = dtype_name(call.tensors[0]) if call.precision == "full" else call.precision
        counts[Ran(call.op, backend.name, dtype, _passed_over(call, backend))] += 1
    return kernel(*args)


def _picked(call: Call) -> tuple[Backend, Callable[..., Any]]:
    """Return a call's backend and its function, from memory: asking all backends takes as long as a launch."""
    kind = call.kind
    found = _found.get(kind)
    if found is None or found[0] is not BACKENDS:
        if len(_found) >= MAX_KINDS:
            _found.clear()
        backend = pick(call)
        found = _found[kind] = BACKENDS, backend, backend.kernel(call.op)
    return found[1:]


def dtype_name(x: torch.Tensor) -> str:
    """Name a tensor's dtype, as ``bfloat16``."""
    return str(x.dtype).removeprefix("torch.")


def _passed_over(call: Call, chosen: Backend) -> str:
    """Say why those before the chosen backend that are for the device did not take the call."""
    before = BACKENDS[: BACKENDS.index(chosen)]
    return _obstacles([backend for backend in before if backend.precision == call.precision], call)


def _obstacles(backends: Sequence[Backend], call: Call) -> str:
    """Say what is in the way of a call, by backend."""
    reasons = [(backend.name, backend.why_not(call)) for backend in backends if backend.why_not is not None]
    return "; ".join(f"{name}: {reason}" for name, reason in reasons if reason is not None)


@contextmanager
def counted(counts: KernelCounts) -> Iterator[None]:
    """Count the operations of the enclosed work by the backend that ran them."""
    token = _counts.set(counts)
    try:
        yield
    finally:
        _counts.reset(token)
