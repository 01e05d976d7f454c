"""Softmax mass inside each block from a cached LSE, in PyTorch."""

import torch

from adaspa.index import num_blocks
from adaspa.ops.reference.attention_with_block_mass import query_chunks, sum_blocks


def block_mass(
    q: torch.Tensor,
    k: torch.Tensor,
    lse: torch.Tensor,
    query_block: int,
    key_block: int,
    scale: float,
    query_stride: int,
) -> torch.Tensor:
    """`adaspa.ops.block_mass`, a bounded chunk of query blocks at a time."""
    q, lse, block_rows = q[:, :, ::query_stride], lse[:, :, ::query_stride], query_block // query_stride
    key_t = k.float().transpose(-1, -2)
    found = torch.empty(
        *q.shape[:2],
        num_blocks(q.shape[2], block_rows),
        num_blocks(k.shape[2], key_block),
        dtype=torch.float32,
        device=q.device,
    )
    for start, stop in query_chunks(q, k, block_rows):
        scores = (q[:, :, start:stop].float() * scale) @ key_t
        mass = scores.sub_(lse[:, :, start:stop].unsqueeze(-1)).exp_()
        found[:, :, start // block_rows : num_blocks(stop, block_rows)] = sum_blocks(mass, block_rows, key_block)
    return found
