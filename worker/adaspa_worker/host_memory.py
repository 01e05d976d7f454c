"""Host memory that a model's loading frees: back to the system at once, not kept by the allocator."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt <https://man7.org/linux/man-pages/man3/mallopt.3.html>`_."""
SMALL, LARGE = 2**20, 2**25
"""Bytes from which a block gets pages of its own: while a model loads, and the most that glibc itself would take."""


@contextmanager
def given_back() -> Iterator[None]:
    """Give each tensor's memory back to the system as soon as it is freed, in a block or in a function.

    Once large blocks have been freed, glibc takes those of up to 32 MiB from its heap. What a cast or a quantisation
    frees then leaves holes there, which may add up to more than the weights. Afterwards it takes them from its
    heap again, because new pages for each would slow down what runs on a CPU. Other C libraries are left alone.
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is None:
        yield
        return
    adjust(MMAP_THRESHOLD, SMALL)
    try:
        yield
    finally:
        adjust(MMAP_THRESHOLD, LARGE)
        adjust(TRIM_THRESHOLD, 2 * LARGE)
