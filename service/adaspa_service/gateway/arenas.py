"""How many places malloc takes memory from.

glibc has one for nearly each thread, up to eight a core, and each keeps what its busiest moment took: on 2 cores a gateway whose
objects stayed the same grew by 14 MB in 3,000 jobs, and had 15 MB of free memory that nobody used. Threads here wait for
the interpreter's lock more than for malloc's, so that two places do.
"""

import ctypes
import os

ARENAS = 2
M_ARENA_MAX = -8
"""As ``malloc.h`` has it."""


def limit() -> None:
    """Limit them for this process, before it has threads; not where its environment says how many there may be."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have no arenas
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(M_ARENA_MAX, ARENAS)
