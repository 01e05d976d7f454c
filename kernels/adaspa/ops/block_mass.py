"""Block mass from a cached LSE, without the attention: the LSE-cached search (section 4.2)."""

from typing import Any

import torch

from adaspa.index import num_blocks
from adaspa.ops import backends
from adaspa.ops.call import Call, Precision
from adaspa.ops.check import check_blocks, check_lse, check_qk, softmax_scale
from adaspa.ops.operation import operation


def block_mass(
    q: torch.Tensor,
    k: torch.Tensor,
    lse: torch.Tensor,
    *,
    key_block: int = 64,
    query_block: int | None = None,
    scale: float | None = None,
    query_stride: int = 1,
    precision: Precision = "full",
) -> torch.Tensor:
    """Compute the softmax mass in each block, ``sum of exp(q_r . k_j * scale - lse_r)`` over its rows and columns.

    With a ``query_stride`` above 1 only every n-th row is summed, for that fraction of the work: the shares of a
    row of block mass are then estimates.

    Args:
        q: ``[B, H, Sq, D]``, any strides.
        k: ``[B, H, Sk, D]``.
        lse: natural-log LSE ``[B, H, Sq]``; from an earlier denoising step it makes the rows sum to about, not exactly,
            their number of query rows.
        key_block: tokens in a key block.
        query_block: tokens in a query block, a multiple of ``key_block``; as many as in a key block by default.
        scale: factor of q.k; ``D ** -0.5`` by default.
        query_stride: rows from one scored query row to the next; a divisor of ``key_block``.
        precision: of the products: ``full``, that of q, or ``int8_fp8`` (`adaspa.ops.reference_eight`).

    Returns:
        block mass fp32 ``[B, H, nq, nk]``.

    Raises:
        ValueError: when shapes, dtypes or devices do not match, a block is not supported,
            or nothing here has the precision.
    """
    check_qk(q, k)
    check_lse(lse, q)
    query_block = check_blocks(key_block, query_block)
    if not isinstance(query_stride, int) or query_stride < 1 or key_block % query_stride:
        raise ValueError(f"query_stride must be a divisor of key_block={key_block}, got {query_stride!r}")
    mass: torch.Tensor = _run(q, k, lse, query_block, key_block, softmax_scale(scale, q), query_stride, precision)
    return mass


@operation("adaspa::block_mass")
def _run(
    q: torch.Tensor,
    k: torch.Tensor,
    lse: torch.Tensor,
    query_block: int,
    key_block: int,
    scale: float,
    query_stride: int,
    precision: str,
) -> torch.Tensor:
    call = Call("block_mass", (q, k), query_block, key_block, query_stride, precision)
    mass: torch.Tensor = backends.run(call, q, k, lse, query_block, key_block, scale, query_stride)
    return mass


@_run.register_fake
def _(q: torch.Tensor, k: torch.Tensor, _lse: Any, query_block: int, key_block: int, *_: Any) -> torch.Tensor:
    blocks = (num_blocks(q.shape[2], query_block), num_blocks(k.shape[2], key_block))
    return q.new_empty((*q.shape[:2], *blocks), dtype=torch.float32)
