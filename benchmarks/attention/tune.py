"""The launch parameters of block-sparse attention, tried one by one: how the rule in `launch_options` was found."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from adaspa.ops.check import softmax_scale
from adaspa.self_check import Shape, Tensors, random_index

TILES = ((128, 64), (64, 64), (128, 128))


def launches(shape: Shape, qkv: Tensors, density: float) -> Iterator[tuple[dict[str, Any], Any]]:
    """Every combination as (what it is, a launch)."""
    from adaspa.ops.triton.block_sparse_attention import launch  # noqa: PLC0415 - the module is imported without Triton

    q, k, v = qkv
    out, lse = torch.empty_like(q), torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    scale = softmax_scale(None, q)
    for tile in TILES:
        index = random_index(density, shape, tile, "uniform")
        for use_tma, warps, stages in product((True, False), (4, 8), (2, 3, 4, 5)):
            options = {"num_warps": warps, "num_stages": stages}

            def call(index: Any = index, tile: Any = tile, use_tma: bool = use_tma, options: Any = options) -> None:
                launch(q, k, v, index, out, lse, scale, use_tma, options)

            yield {"op": "tune", "block": list(tile), "density": density, "descriptors": use_tma} | options, call
