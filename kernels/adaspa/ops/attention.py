"""Dense attention."""

import torch

from adaspa.ops import backends
from adaspa.ops.call import Call
from adaspa.ops.check import check_qkv, softmax_scale


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float | None = None) -> torch.Tensor:
    """``softmax(q k^T * scale) v``, by our kernel where it is faster than PyTorch's.

    Args:
        q: ``[B, H, Sq, D]``, any strides.
        k, v: ``[B, H, Sk, D]``.
        scale: factor of q.k; ``D ** -0.5`` by default.

    Returns:
        ``[B, H, Sq, D]`` in the dtype of q.

    Raises:
        ValueError: when shapes, dtypes or devices do not match.
    """
    check_qkv(q, k, v)
    out: torch.Tensor = backends.run(Call("attention", (q, k, v)), q, k, v, softmax_scale(scale, q))
    return out
