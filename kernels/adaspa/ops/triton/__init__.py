"""Operations as Triton kernels, one a file, for every GPU that Triton compiles for."""

import torch

from adaspa.ops.call import Call
from adaspa.ops.device import HALF, MAX_HEAD_DIM, TRITON_IS_INSTALLED

ATTENTION = ("attention_with_block_mass", "block_mass", "block_sparse_attention")
OTHERS = ("add_residual", "keep_blocks", "rotary", "round_rows")


def takes(call: Call) -> bool:
    """Tell whether a call runs here: on a GPU, attention in fp16 or bf16 with a head_dim of up to 256.

    fp32 attention keeps its full precision in the reference.
    """
    if not _is_for(call):
        return False
    if call.op in ATTENTION:
        return _obstacle(call) is None
    return call.op == "keep_blocks" or call.tensors[0].dtype != torch.float64


def why_not(call: Call) -> str | None:
    """Say what is in the way of attention on a GPU; None if nothing is."""
    return _obstacle(call) if _is_for(call) and call.op in ATTENTION else None


def _obstacle(call: Call) -> str | None:
    q = call.tensors[0]
    if q.dtype not in HALF:
        return f"{q.dtype} is not float16 or bfloat16"
    return None if q.shape[-1] <= MAX_HEAD_DIM else f"head_dim {q.shape[-1]} is over {MAX_HEAD_DIM}"


def _is_for(call: Call) -> bool:
    return TRITON_IS_INSTALLED and call.tensors[0].is_cuda and call.op in (*ATTENTION, *OTHERS)
