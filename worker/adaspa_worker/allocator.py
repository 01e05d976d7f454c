"""PyTorch's allocator of GPU memory: segments that grow and shrink, so that free pieces serve as a whole.

With its usual segments, Wan's VAE ran out of memory on an H200 with a fifth more room than its peak.
"""

import os

VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Variables with which an operator may choose other settings; every PyTorch reads the second."""
GROWING = "expandable_segments:True"


def use() -> None:
    """Choose growing segments, unless the operator chose, here and in children. Call before PyTorch loads."""
    if not any(os.environ.get(variable) for variable in VARIABLES):
        os.environ[VARIABLES[-1]] = GROWING
