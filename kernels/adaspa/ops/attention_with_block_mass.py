"""Dense attention and block mass in one pass: the fused online search (section 4.2)."""

from typing import Any

import torch

from adaspa.index import num_blocks
from adaspa.ops import backends
from adaspa.ops.call import Call
from adaspa.ops.check import check_blocks, check_lse, check_qkv, softmax_scale
from adaspa.ops.device import unit_stride
from adaspa.ops.operation import operation


def attention_with_block_mass(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lse: torch.Tensor | None = None,
    *,
    key_block: int = 64,
    query_block: int | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Dense attention and the softmax mass inside each block.

    ``mass[p, c] = sum over rows r in p, columns j in c of exp(q_r . k_j * scale - lse_r)``

    Args:
        q: ``[B, H, Sq, D]``, any strides.
        k, v: ``[B, H, Sk, D]``.
        lse: natural-log LSE ``[B, H, Sq]`` to take the mass from, as an earlier denoising step left it; None takes the
            LSE of this very pass, so that a row of block mass sums to its number of query rows.
        key_block: tokens in a key block.
        query_block: tokens in a query block, a multiple of ``key_block``; as many as in a key block by default.
        scale: factor of q.k; ``D ** -0.5`` by default.

    Returns:
        out ``[B, H, Sq, D]`` in the dtype of q (exact whatever ``lse`` is), block mass fp32 ``[B, H, nq, nk]``, and
        the LSE of this pass, fp32 ``[B, H, Sq]``.

    Raises:
        ValueError: when shapes, dtypes or devices do not match, or a block is not supported.
    """
    check_qkv(q, k, v)
    query_block = check_blocks(key_block, query_block)
    if lse is not None:
        check_lse(lse, q)
    scale = softmax_scale(scale, q)
    if lse is None and backends.pick(Call("attention_with_block_mass", (q, k, v), query_block, key_block)).needs_lse:
        lse = backends.run(Call("dense_attention", (q, k, v)), q, k, v, scale)[1]
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _run(q, k, v, lse, query_block, key_block, scale)
    return found


@operation("adaspa::attention_with_block_mass")
def _run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lse: torch.Tensor | None,
    query_block: int,
    key_block: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    call = Call("attention_with_block_mass", (q, k, v), query_block, key_block)
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = backends.run(
        call, q, k, v, lse, query_block, key_block, scale
    )
    return found


@_run.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, _v: Any, _lse: Any, query_block: int, key_block: int, _scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    blocks = (num_blocks(q.shape[2], query_block), num_blocks(k.shape[2], key_block))
    mass = q.new_empty((*q.shape[:2], *blocks), dtype=torch.float32)
    return torch.empty_like(unit_stride(q)), mass, q.new_empty(q.shape[:3], dtype=torch.float32)
