"""Limit of the memory that this worker's model and one job may need together."""

from functools import cache

import torch
from adaspa_jobs.settings import get_settings

SPARE = 0.03
"""Share of the limit that is left to gaps between what PyTorch's allocator holds."""


@cache
def memory_limit() -> int | None:
    """Return the limit in bytes: the setting, or else the GPU's free memory. None on a CPU without the setting.

    On a GPU it is less by SPARE. Ask first before the model is loaded: what is free then is the worker's. PyTorch keeps
    to a set limit, gaps included.
    """
    own = get_settings().worker_memory_bytes
    if not torch.cuda.is_available():
        return own
    free, total = torch.cuda.mem_get_info()
    if own is not None:
        torch.cuda.set_per_process_memory_fraction(min(1.0, own / total))
    return int((free if own is None else own) * (1 - SPARE))
