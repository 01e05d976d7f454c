"""Dense attention that also gives the LSE."""

import torch

from adaspa.ops import backends
from adaspa.ops.call import Call
from adaspa.ops.check import check_qkv, softmax_scale
from adaspa.ops.device import unit_stride
from adaspa.ops.operation import operation


def dense_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """``softmax(q k^T * scale) v`` and the LSE of every query row.

    Args:
        q: ``[B, H, Sq, D]``, any strides.
        k, v: ``[B, H, Sk, D]``.
        scale: factor of q.k; ``D ** -0.5`` by default.

    Returns:
        out ``[B, H, Sq, D]`` in the dtype of q, and the natural-log LSE ``[B, H, Sq]`` (fp32; fp64 for fp64 inputs).

    Raises:
        ValueError: when shapes, dtypes or devices do not match.
    """
    check_qkv(q, k, v)
    found: tuple[torch.Tensor, torch.Tensor] = _run(q, k, v, softmax_scale(scale, q))
    return found


@operation("adaspa::dense_attention")
def _run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    found: tuple[torch.Tensor, torch.Tensor] = backends.run(Call("dense_attention", (q, k, v)), q, k, v, scale)
    return found


@_run.register_fake
def _(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    lse_dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return torch.empty_like(unit_stride(q)), q.new_empty(q.shape[:3], dtype=lse_dtype)
