"""Attention in eight bits for Hopper GPUs, in Gluon: int8 for q.k and e4m3 for p.v (`adaspa.ops.reference_eight`).

`prepare` writes q, k and v in eight bits, `attention` and `paired` multiply them, and `block_mass` scores blocks by q
and k alone.
"""

from adaspa.ops.call import Call
from adaspa.ops.device import HALF, TRITON_IS_INSTALLED, capability
from adaspa.ops.hopper import HEAD_DIMS, PAIRED_BLOCKS, SPARSE_BLOCKS
from adaspa.ops.reference_eight.rounding import KEYS

OPS = ("attention", "dense_attention", "block_sparse_attention", "block_mass")


def takes(call: Call) -> bool:
    """Tell whether a call runs here: fp16 or bf16 of head_dim 64 or 128 on a Hopper GPU, in blocks of the kernel."""
    return call.op in OPS and call.tensors[0].is_cuda and _obstacle(call) is None


def why_not(call: Call) -> str | None:
    """Say what is in the way of a call on a GPU; None if nothing is."""
    return _obstacle(call) if call.tensors[0].is_cuda else None


def _obstacle(call: Call) -> str | None:
    q = call.tensors[0]
    if capability(q.device)[0] != 9:
        return "it needs a Hopper GPU (compute capability 9.0)"
    if not TRITON_IS_INSTALLED:
        return "it needs Triton"
    if q.dtype not in HALF:
        return f"{q.dtype} is not float16 or bfloat16"
    if q.shape[-1] not in HEAD_DIMS:
        return f"head_dim {q.shape[-1]} is not one of {HEAD_DIMS}"
    blocks = (call.query_block, call.key_block)
    of_sparse = (*SPARSE_BLOCKS, PAIRED_BLOCKS)
    has_blocks = blocks in of_sparse if call.op == "block_sparse_attention" else call.key_block % KEYS == 0
    if not has_blocks:
        return f"no kernel for blocks of {call.query_block} x {call.key_block} tokens"
    return None
