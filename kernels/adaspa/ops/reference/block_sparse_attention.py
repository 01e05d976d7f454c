"""Attention over the key blocks of an index only, in PyTorch."""

from collections.abc import Iterator
from itertools import groupby

import torch
import torch.nn.functional as F

from adaspa.index import BlockIndex

GATHERED_TOKENS = {"cpu": 2**14, "cuda": 2**19}
"""Key tokens that are gathered at a time: on a CPU about what its caches hold."""


def block_sparse_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, index: BlockIndex, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`adaspa.ops.block_sparse_attention`: gathers the listed key blocks of a group of rows, and attends to those.

    The rows of a group have lists of one length, so that nothing is padded.
    """
    batch, heads, tokens, dim = q.shape
    queries = _blocks(q, index.query_block)
    keys, values = _blocks(k, index.key_block), _blocks(v, index.key_block)
    out = torch.zeros_like(queries)
    lse = torch.full(out.shape[:2], -torch.inf, dtype=torch.float32, device=q.device)
    for rows, width in _row_groups(index, GATHERED_TOKENS.get(q.device.type, 2**14)):
        ids = _listed_blocks(index, rows, width)
        blocks = (rows // index.num_query_blocks * index.num_key_blocks).unsqueeze(-1) + ids
        gathered = (len(rows), width * index.key_block, dim)
        out[rows], lse[rows] = _attend(
            queries[rows],
            keys.index_select(0, blocks.flatten()).view(gathered),
            values.index_select(0, blocks.flatten()).view(gathered),
            _real_tokens(index, ids),
            scale,
        )
    shape = (batch, heads, index.num_query_blocks * index.query_block)
    return out.view(*shape, dim)[:, :, :tokens], lse.view(shape)[:, :, :tokens]


def _blocks(x: torch.Tensor, block: int) -> torch.Tensor:
    """``[B, H, S, D]`` as contiguous blocks ``[B * H * blocks, block, D]``, the last one padded with zeros."""
    padding = -x.shape[2] % block
    x = F.pad(x, (0, 0, 0, padding)) if padding else x
    return x.contiguous().view(-1, block, x.shape[-1])


def _row_groups(index: BlockIndex, tokens: int) -> Iterator[tuple[torch.Tensor, int]]:
    """Rows whose lists have the same length, and that length; rows with an empty list are left out."""
    order, counts = index.rows_by_count
    start = 0
    for width, same in groupby(counts):
        stop = start + len(list(same))
        step = max(1, tokens // max(1, width * index.key_block))
        for first in range(start, stop if width else start, step):
            yield order[first : min(first + step, stop)], width
        start = stop


def _listed_blocks(index: BlockIndex, rows: torch.Tensor, width: int) -> torch.Tensor:
    """Key block ids ``[rows, width]``."""
    if width == index.num_key_blocks:
        return torch.arange(width, device=rows.device).expand(len(rows), width)
    return index.ids.flatten(0, 2)[rows, :width].long()


def _real_tokens(index: BlockIndex, ids: torch.Tensor) -> torch.Tensor | None:
    """Tell which gathered tokens are in the sequence, bool ``[rows, width * block]``; None if all are."""
    if index.key_tokens % index.key_block == 0:
        return None
    token = ids.unsqueeze(-1) * index.key_block + torch.arange(index.key_block, device=ids.device)
    return (token < index.key_tokens).flatten(1)


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, visible: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of ``[R, M, D]`` to ``[R, N, D]``, each row to its own keys."""
    if q.device.type == "cpu":
        mask = None
        if visible is not None:
            mask = torch.zeros(visible.shape, dtype=q.dtype).masked_fill_(~visible, -torch.inf)[:, None, None]
            mask = mask.expand(-1, 1, q.shape[1], -1)
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), attn_mask=mask, scale=scale
        )
        return out.squeeze(1), lse.squeeze(1).float()
    scores = (q.float() * scale) @ k.float().transpose(-1, -2)
    if visible is not None:
        scores.masked_fill_(~visible.unsqueeze(1), -torch.inf)
    lse = scores.logsumexp(-1)
    return (scores.sub_(lse.unsqueeze(-1)).exp_() @ v.float()).to(q.dtype), lse
