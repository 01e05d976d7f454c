"""Operations for Hopper GPUs, in Gluon: one warp loads tiles by TMA while two warpgroups compute.

The Triton kernels beside this package do the same anywhere; on Hopper their softmax and their matrix products wait for
each other. Here each warpgroup starts its next matrix product before the softmax of the present one, and the two
warpgroups fill each other's gaps (the schedule of FlashAttention-3, arXiv 2407.08608, section 3).
"""

import torch

from adaspa.ops.call import Call
from adaspa.ops.device import HALF, TRITON_IS_INSTALLED, can_use_tma, capability, unit_stride

MIN_TOKENS = 8192
"""Tokens from which dense attention is faster here than by PyTorch; below, the launch shows (kernels-h100.json)."""
PAYS_FROM = 2.8e10
"""Query-key pairs times head_dim of a dense call from which a request with sparse steps is faster than a dense one.

With fewer, launches take longer than the attention that is saved.
"""
SPARSE_BLOCKS = ((128, 64), (128, 128))
PAIRED_BLOCKS = (64, 64)
"""Blocks of which two neighbouring ones of queries share a program; in bfloat16 and in eight bits only."""
HEAD_DIMS = (64, 128)
OPS = ("attention", "dense_attention", "block_sparse_attention", "attention_with_block_mass", "block_mass")


def takes(call: Call) -> bool:
    """Tell whether a call runs here: fp16 or bf16 of head_dim 64 or 128 on a Hopper GPU, in blocks of the kernels."""
    return _is_for(call) and _obstacle(call) is None


def why_not(call: Call) -> str | None:
    """Say what is in the way of a call that the kernels are for; None if nothing is, or if they are not."""
    return _obstacle(call) if _is_for(call) else None


def _obstacle(call: Call) -> str | None:
    q = call.tensors[0]
    if q.dtype not in HALF:
        return f"{q.dtype} is not float16 or bfloat16"
    if q.shape[-1] not in HEAD_DIMS:
        return f"head_dim {q.shape[-1]} is not one of {HEAD_DIMS}"
    if not _has_blocks(call):
        return f"no kernel for {q.dtype} in blocks of {call.query_block} x {call.key_block} tokens"
    tensors = [unit_stride(x) for x in call.tensors]
    if call.query_stride > 1:
        tensors = [x[:, :, :: call.query_stride] for x in tensors]
    if not can_use_tma(*tensors):
        return "strides or addresses are not multiples of 16 bytes"
    return None


def _is_for(call: Call) -> bool:
    """Tell whether a call's operation and GPU are among these, and it is too long for PyTorch's to be faster."""
    if not TRITON_IS_INSTALLED or call.op not in OPS or capability(call.tensors[0].device)[0] != 9:
        return False
    return call.op != "attention" or call.tensors[0].shape[2] >= MIN_TOKENS


def _has_blocks(call: Call) -> bool:
    if call.op == "block_sparse_attention":
        blocks = (call.query_block, call.key_block)
        return blocks in SPARSE_BLOCKS or (blocks == PAIRED_BLOCKS and call.tensors[0].dtype == torch.bfloat16)
    return call.key_block % 64 == 0
