"""The operations as Triton kernels, one a file, for every GPU that Triton compiles for."""

import torch

from adaspa.ops.call import Call
from adaspa.ops.device import HALF, MAX_HEAD_DIM, TRITON_IS_INSTALLED

ATTENTION = ("attention_with_block_mass", "block_mass", "block_sparse_attention")


def takes(call: Call) -> bool:
    """Whether a call runs here: on a GPU, attention in fp16 or bf16 with a head_dim of up to 256.

    fp32 attention keeps its full precision in the reference.
    """
    q = call.tensors[0]
    if not TRITON_IS_INSTALLED or not q.is_cuda:
        return False
    if call.op in ATTENTION:
        return q.dtype in HALF and q.shape[-1] <= MAX_HEAD_DIM
    return call.op == "keep_blocks" or (call.op == "rotary" and q.dtype != torch.float64)
