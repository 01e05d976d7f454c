"""Dense attention that also gives the LSE."""

from typing import Any

import torch

from adaspa.ops import backends
from adaspa.ops.call import Call, Precision
from adaspa.ops.check import check_qkv, softmax_scale
from adaspa.ops.device import unit_stride
from adaspa.ops.operation import operation


def dense_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
    precision: Precision = "full",
) -> tuple[torch.Tensor, torch.Tensor]:
    """``softmax(q k^T * scale) v`` and the LSE of every query row.

    Args:
        q: ``[B, H, Sq, D]``, any strides.
        k, v: ``[B, H, Sk, D]``.
        scale: factor of q.k; ``D ** -0.5`` by default.
        precision: of the products: ``full``, that of q, or ``int8_fp8`` (`adaspa.ops.reference_eight`).

    Returns:
        out ``[B, H, Sq, D]`` in the dtype of q, and the natural-log LSE ``[B, H, Sq]`` (fp32; fp64 for fp64 inputs).

    Raises:
        ValueError: when shapes, dtypes or devices do not match, or nothing here has the precision.
    """
    check_qkv(q, k, v)
    found: tuple[torch.Tensor, torch.Tensor] = _run(q, k, v, softmax_scale(scale, q), precision)
    return found


@operation("adaspa::dense_attention")
def _run(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, precision: str
) -> tuple[torch.Tensor, torch.Tensor]:
    call = Call("dense_attention", (q, k, v), precision=precision)
    found: tuple[torch.Tensor, torch.Tensor] = backends.run(call, q, k, v, scale)
    return found


@_run.register_fake
def _(q: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    lse_dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return torch.empty_like(unit_stride(q)), q.new_empty(q.shape[:3], dtype=lse_dtype)
