"""Each kernel beside its reference, before anything is timed."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from adaspa import ops
from adaspa.bench.inputs import Shape, random_index, random_qkv
from adaspa.ops.attention_with_scores import reference as attention_with_scores_reference
from adaspa.ops.block_scores import reference as block_scores_reference
from adaspa.ops.block_sparse_attention import reference as block_sparse_attention_reference
from adaspa.ops.check import softmax_scale

TILES = ((64, 64), (128, 64), (128, 128))


def deviations(dtype: torch.dtype) -> list[dict[str, Any]]:
    """The largest difference of each kernel from its reference, at a shape with partial blocks."""
    rows = []
    for dim in (64, 128):
        shape = Shape("check", 3, 1_000, dim)
        q, k, v = random_qkv(shape, dtype)
        scale = softmax_scale(None, q)
        out, lse = ops.dense_attention(q, k, v)
        pairs: dict[str, tuple[Any, Any]] = {
            "dense_attention": ((out, lse), (F.scaled_dot_product_attention(q, k, v),))
        }
        for block in (64, 128):
            pairs[f"attention_with_scores {block}"] = (
                ops.attention_with_scores(q, k, v, lse, block=block),
                attention_with_scores_reference(q, k, v, lse, query_block=block, block=block, scale=scale),
            )
            pairs[f"block_scores {block}"] = (
                (ops.block_scores(q, k, lse, block=block),),
                (block_scores_reference(q, k, lse, query_block=block, block=block, scale=scale),),
            )
        for tile in TILES:
            index = random_index(0.4, shape, tile, "skewed")
            pairs[f"block_sparse_attention {tile[0]}x{tile[1]}"] = (
                ops.block_sparse_attention(q, k, v, index),
                block_sparse_attention_reference(q, k, v, index, scale=scale),
            )
        for name, (got, wanted) in pairs.items():
            worst = [float((a.float() - b.float()).abs().max()) for a, b in zip(got, wanted, strict=False)]
            rows.append({"op": name, "dim": dim, "max_abs_difference": [round(value, 6) for value in worst]})
    return rows
