"""The operations for Hopper GPUs, in Gluon: one warp loads tiles by TMA while two warpgroups compute.

The Triton kernels beside this package do the same anywhere; on Hopper their softmax and their matrix products wait for
each other. Here each warpgroup starts its next matrix product before the softmax of the present one, and the two
warpgroups fill each other's gaps (the schedule of FlashAttention-3, arXiv 2407.08608, section 3).
"""

from adaspa.ops.call import Call
from adaspa.ops.device import HALF, TRITON_IS_INSTALLED, can_use_tma, capability, unit_stride

MIN_TOKENS = 8192
"""Tokens from which dense attention is faster here than by PyTorch; below, the launch shows (kernels.json)."""
SPARSE_BLOCKS = ((128, 64), (128, 128))


def takes(call: Call) -> bool:
    """Whether a call runs here: fp16 or bf16 of head_dim 64 or 128 on a Hopper GPU, in blocks that the kernels have."""
    if not TRITON_IS_INSTALLED or not _has_blocks(call):
        return False
    on_hopper = all(capability(x.device)[0] == 9 and x.dtype in HALF and x.shape[-1] in (64, 128) for x in call.tensors)
    return on_hopper and can_use_tma(*(unit_stride(x)[:, :, :: call.query_stride] for x in call.tensors))


def _has_blocks(call: Call) -> bool:
    match call.op:
        case "attention":
            return call.tensors[0].shape[2] >= MIN_TOKENS
        case "dense_attention":
            return True
        case "block_sparse_attention":
            return (call.query_block, call.key_block) in SPARSE_BLOCKS
        case "attention_with_block_mass" | "block_mass":
            return call.key_block % 64 == 0
    return False
