"""Each operation in plain PyTorch: what all kernels must agree with, and what runs where there is no kernel."""

from adaspa.ops.call import Call


def takes(call: Call) -> bool:
    """Tell whether a call runs here: every one."""
    return True
