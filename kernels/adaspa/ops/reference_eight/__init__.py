"""Attention in eight bits in plain PyTorch: what it means, what kernels must agree with, and what runs on a CPU."""

from adaspa.ops.call import Call

OPS = ("attention", "dense_attention", "block_sparse_attention", "block_mass")


def takes(call: Call) -> bool:
    """Tell whether a call runs here: attention on a CPU, where it shows the precision and saves no time."""
    return call.op in OPS and call.tensors[0].device.type == "cpu"
