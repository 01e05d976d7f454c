"""Attention over the key blocks of an index only."""

from typing import Any

import torch

from adaspa.index import BlockIndex
from adaspa.ops import backends
from adaspa.ops.call import Call, Precision
from adaspa.ops.check import check_qkv, softmax_scale
from adaspa.ops.device import unit_stride
from adaspa.ops.operation import is_watched


def block_sparse_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    index: BlockIndex,
    *,
    scale: float | None = None,
    precision: Precision = "full",
) -> tuple[torch.Tensor, torch.Tensor]:
    """``softmax(q k^T * scale) v`` where each query block sees the key blocks that ``index`` lists for it.

    The other blocks are neither loaded nor computed.

    Args:
        q: ``[B, H, Sq, D]``, any strides.
        k, v: ``[B, H, Sk, D]``.
        index: the pattern of these B, H, Sq and Sk.
        scale: factor of q.k; ``D ** -0.5`` by default.
        precision: of the products: ``full``, that of q, or ``int8_fp8`` (`adaspa.ops.reference_eight`).

    Returns:
        out ``[B, H, Sq, D]`` in the dtype of q, and the natural-log LSE over the kept blocks, fp32 ``[B, H, Sq]``. A
        query block without any key block gives zeros and an LSE of minus infinity.

    Raises:
        ValueError: when shapes, dtypes or devices do not match, the index has another geometry, or nothing here has the
            precision.
    """
    check_qkv(q, k, v)
    _check_index(index, q, k)
    scale = softmax_scale(scale, q)
    if not is_watched(q, k, v):
        return _run(q, k, v, index, scale, precision)
    found: tuple[torch.Tensor, torch.Tensor] = _run_watched(
        q, k, v, index.ids, index.counts, index.query_block, index.key_block, scale, precision
    )
    return found


def _run(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, index: BlockIndex, scale: float, precision: str
) -> tuple[torch.Tensor, torch.Tensor]:
    call = Call("block_sparse_attention", (q, k, v), index.query_block, index.key_block, precision=precision)
    found: tuple[torch.Tensor, torch.Tensor] = backends.run(call, q, k, v, index, scale)
    return found


@torch.library.custom_op("adaspa::block_sparse_attention", mutates_args=())
def _run_watched(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ids: torch.Tensor,
    counts: torch.Tensor,
    query_block: int,
    key_block: int,
    scale: float,
    precision: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    index = BlockIndex(ids, counts, query_block, key_block, q.shape[2], k.shape[2])
    return _run(q, k, v, index, scale, precision)


@_run_watched.register_fake
def _(q: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(unit_stride(q)), q.new_empty(q.shape[:3], dtype=torch.float32)


def _check_index(index: BlockIndex, q: torch.Tensor, k: torch.Tensor) -> None:
    if index.ids.device != q.device:
        raise ValueError(f"index must be on the device of q, {q.device}, got {index.ids.device}")
    (batch, heads), queries, keys = index.ids.shape[:2], index.query_tokens, index.key_tokens
    if (batch, heads, queries) != q.shape[:3] or keys != k.shape[2]:
        wanted, got = (*q.shape[:3], k.shape[2]), (batch, heads, queries, keys)
        raise ValueError(f"index must be for (B, H, Sq, Sk) = {wanted}, got one for {got}")
