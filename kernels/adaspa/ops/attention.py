"""Dense attention."""

import torch

from adaspa.ops import backends
from adaspa.ops.call import Call, Precision
from adaspa.ops.check import check_qkv, softmax_scale


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
    precision: Precision = "full",
) -> torch.Tensor:
    """``softmax(q k^T * scale) v``, by our kernel where it is faster than PyTorch's.

    Args:
        q: ``[B, H, Sq, D]``, any strides.
        k, v: ``[B, H, Sk, D]``.
        scale: factor of q.k; ``D ** -0.5`` by default.
        precision: of the products: ``full``, that of q, or ``int8_fp8`` (`adaspa.ops.reference_eight`).

    Returns:
        ``[B, H, Sq, D]`` in the dtype of q.

    Raises:
        ValueError: when shapes, dtypes or devices do not match, or nothing here has the precision.
    """
    check_qkv(q, k, v)
    call = Call("attention", (q, k, v), precision=precision)
    out: torch.Tensor = backends.run(call, q, k, v, softmax_scale(scale, q))
    return out
