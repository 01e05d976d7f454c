"""Dense attention and the softmax mass inside each block, in PyTorch."""

import torch
import torch.nn.functional as F

from adaspa.index import num_blocks

CHUNK_SCORES = 2**23
"""Scores of one chunk of query rows that are held at a time."""


def dense_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`adaspa.ops.dense_attention`."""
    out, _, lse = attention_with_block_mass(q, k, v, None, 128, 128, scale)
    return out, lse


def attention_with_block_mass(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lse: torch.Tensor | None,
    query_block: int,
    key_block: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`adaspa.ops.attention_with_block_mass`, a bounded chunk of query blocks at a time."""
    batch, heads, tokens, _ = q.shape
    key_t, value = k.float().transpose(-1, -2), v.float()
    out = torch.empty_like(q)
    new_lse = torch.empty(batch, heads, tokens, dtype=torch.float32, device=q.device)
    block_mass = torch.empty(
        batch,
        heads,
        num_blocks(tokens, query_block),
        num_blocks(k.shape[2], key_block),
        dtype=torch.float32,
        device=q.device,
    )
    for start, stop in query_chunks(q, k, query_block):
        scores = (q[:, :, start:stop].float() * scale) @ key_t
        top = scores.amax(-1, keepdim=True)
        mass = scores.sub_(top).exp_()
        total = mass.sum(-1, keepdim=True)
        out[:, :, start:stop] = (mass @ value) / total
        chunk_lse = (top + total.log()).squeeze(-1)
        new_lse[:, :, start:stop] = chunk_lse
        used = chunk_lse if lse is None else lse[:, :, start:stop]
        mass *= torch.exp(top.squeeze(-1) - used).unsqueeze(-1)
        block_mass[:, :, start // query_block : num_blocks(stop, query_block)] = sum_blocks(
            mass, query_block, key_block
        )
    return out, block_mass, new_lse


def query_chunks(q: torch.Tensor, k: torch.Tensor, block_rows: int) -> list[tuple[int, int]]:
    """Ranges of query rows, whole blocks each, whose scores against all keys stay within CHUNK_SCORES."""
    rows = CHUNK_SCORES // (q.shape[0] * q.shape[1] * k.shape[2])
    step = max(1, rows // block_rows) * block_rows
    return [(start, min(start + step, q.shape[2])) for start in range(0, q.shape[2], step)]


def sum_blocks(mass: torch.Tensor, block_rows: int, key_block: int) -> torch.Tensor:
    """Sum ``[B, H, rows, columns]`` over tiles of block_rows x key_block; the last of either side may be partial."""
    rows, columns = mass.shape[-2:]
    mass = F.pad(mass, (0, -columns % key_block)).unflatten(-1, (-1, key_block)).sum(-1)
    return F.pad(mass, (0, 0, 0, -rows % block_rows)).unflatten(-2, (-1, block_rows)).sum(-2)
