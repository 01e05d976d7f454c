"""PyTorch's allocator of GPU memory: segments that grow and shrink, so that what is free in pieces serves as a whole.

With its usual segments, Wan's VAE needed a quarter more than it held at most, and a job that fits by its peak ended out
of memory.
"""

import os

VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Variables in which an operator may have said something else; every PyTorch reads the second."""
GROWING = "expandable_segments:True"


def use() -> None:
    """Set it for this process and those that it starts, before PyTorch is imported. An operator's own choice stays."""
    if not any(os.environ.get(variable) for variable in VARIABLES):
        os.environ[VARIABLES[-1]] = GROWING
