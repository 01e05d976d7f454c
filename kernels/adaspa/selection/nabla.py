"""NABLA, the pattern that Kandinsky's long-video models are trained with, made anew from every call's tokens."""

import torch

from adaspa.index import BlockIndex
from adaspa.selection.policy import Selected, index_recall
from adaspa.selection.scored import pooled

BLOCK = 64


def nabla(q: torch.Tensor, k: torch.Tensor, *, share: float, near: torch.Tensor) -> Selected:
    """Keep the fewest blocks holding ``share`` of a row of ``softmax(mean q . mean k * D ** -0.5)``, and those nearby.

    Args:
        q, k: ``[B, H, S, D]``, in blocks of 64 tokens.
        share: of the estimated mass to keep, in (0, 1).
        near: the blocks that are kept anyway, bool, of a shape that broadcasts to ``[B, H, S / 64, S / 64]``.

    Returns:
        the pattern, with its recall of that estimate.
    """
    mass = (pooled(q, BLOCK) @ pooled(k, BLOCK).transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1)
    ascending, order = mass.sort(dim=-1)
    kept = ascending.cumsum(dim=-1) >= 1 - share
    mask = torch.zeros_like(kept).scatter(-1, order, kept) | near
    tokens = q.shape[2]
    index = BlockIndex.from_mask(mask, query_block=BLOCK, key_block=BLOCK, query_tokens=tokens, key_tokens=tokens)
    return Selected(index, index_recall(mass, index))
