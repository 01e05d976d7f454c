"""Dense attention and block weights in one pass: the fused online search (section 4.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from adaspa.index import num_blocks
from adaspa.ops.check import check_blocks, check_lse, check_qkv, softmax_scale
from adaspa.ops.dense_attention import dense_attention
from adaspa.ops.dispatch import uses_triton

# Scores of one chunk of query rows that the reference holds at a time.
CHUNK_SCORES = 2**23


def attention_with_scores(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lse: torch.Tensor | None = None,
    *,
    block: int = 64,
    query_block: int | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Dense attention and the softmax mass inside each block.

    ``weights[p, c] = sum over rows r in p, columns j in c of exp(q_r . k_j * scale - lse_r)``

    Args:
        q: ``[B, H, Sq, D]``, any strides.
        k, v: ``[B, H, Sk, D]``.
        lse: natural-log LSE ``[B, H, Sq]`` to take the weights from, as an earlier denoising step left it; None takes
            the LSE of this very pass, so that a row of weights sums to its number of query rows.
        block: tokens in a key block.
        query_block: tokens in a query block, a multiple of ``block``; as many as in a key block by default.
        scale: factor of q.k; ``D ** -0.5`` by default.

    Returns:
        out ``[B, H, Sq, D]`` in the dtype of q (exact whatever ``lse`` is), weights fp32 ``[B, H, nq, nk]``, and
        the LSE of this pass, fp32 ``[B, H, Sq]``.

    Raises:
        ValueError: when shapes, dtypes or devices do not match, or a block is not supported.
    """
    check_qkv(q, k, v)
    query_block = check_blocks(block, query_block)
    if lse is not None:
        check_lse(lse, q)
    scale = softmax_scale(scale, q)
    if uses_triton(q):
        from adaspa.ops.kernels.attention_with_scores import attention_with_scores as kernel  # noqa: PLC0415 - works without Triton

        # The kernel needs an LSE before it starts: without one, the search has a second pass.
        return kernel(
            q, k, v, dense_attention(q, k, v, scale=scale)[1] if lse is None else lse, query_block, block, scale
        )
    return reference(q, k, v, lse, query_block=query_block, block=block, scale=scale)


def dense_passes(q: torch.Tensor, lse: torch.Tensor | None) -> int:
    """Passes over all of queries and keys that `attention_with_scores` takes with this LSE, or without one."""
    return 2 if lse is None and uses_triton(q) else 1


def reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lse: torch.Tensor | None,
    *,
    query_block: int,
    block: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The operation in PyTorch, a bounded chunk of query blocks at a time."""
    batch, heads, tokens, _ = q.shape
    key_t, value = k.float().transpose(-1, -2), v.float()
    out = torch.empty_like(q)
    new_lse = torch.empty(batch, heads, tokens, dtype=torch.float32, device=q.device)
    weights = torch.empty(
        batch,
        heads,
        num_blocks(tokens, query_block),
        num_blocks(k.shape[2], block),
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
        weights[:, :, start // query_block : num_blocks(stop, query_block)] = sum_blocks(mass, query_block, block)
    return out, weights, new_lse


def query_chunks(q: torch.Tensor, k: torch.Tensor, block: int) -> list[tuple[int, int]]:
    """Ranges of query rows, whole blocks each, whose scores against all keys stay within CHUNK_SCORES."""
    rows = CHUNK_SCORES // (q.shape[0] * q.shape[1] * k.shape[2])
    step = max(1, rows // block) * block
    return [(start, min(start + step, q.shape[2])) for start in range(0, q.shape[2], step)]


def sum_blocks(mass: torch.Tensor, block_rows: int, block: int) -> torch.Tensor:
    """Sum ``[B, H, rows, columns]`` over tiles of block_rows x block; the last of either side may be partial."""
    rows, columns = mass.shape[-2:]
    mass = F.pad(mass, (0, -columns % block)).unflatten(-1, (-1, block)).sum(-1)
    return F.pad(mass, (0, 0, 0, -rows % block_rows)).unflatten(-2, (-1, block_rows)).sum(-2)
