"""Attention, block weights and selection written out in full, in fp64: what the library is tested against."""

import torch


def qkv(*, batch=1, heads=2, tokens=130, dim=32, seed=0, dtype=torch.float32, key_tokens=None):
    """Random q, k, v ``[B, H, S, D]`` whose attention is peaked and clustered, so that blocks differ."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, heads, tokens, dim)
    key_shape = (batch, heads, key_tokens or tokens, dim)
    q, k, v = (torch.randn(s, generator=generator) for s in (shape, key_shape, key_shape))
    # Runs of 16 tokens share a direction; some keys draw more attention than others.
    runs = [torch.randn(batch, heads, -(-s[2] // 16), dim, generator=generator) for s in (shape, key_shape)]
    q, k = (x + run.repeat_interleave(16, dim=2)[:, :, : x.shape[2]] for x, run in zip((q, k), runs, strict=True))
    return q.to(dtype), k.to(dtype), v.to(dtype)


def scores(q, k, scale=None):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return q.double() @ k.double().transpose(-1, -2) * scale


def lse(q, k, scale=None):
    return scores(q, k, scale).logsumexp(-1)


def attend(q, k, v, token_mask=None, scale=None):
    """Output and LSE under a boolean token mask; rows without any key give zeros and minus infinity."""
    s = scores(q, k, scale)
    if token_mask is not None:
        s = s.masked_fill(~token_mask, -torch.inf)
    return s.softmax(-1).nan_to_num(0.0) @ v.double(), s.logsumexp(-1)


def block_weights(q, k, given_lse, block, scale=None, *, every=1):
    """Sum of exp(q.k * scale - lse) over every so many-th row of every tile, one tile at a time."""
    mass = (scores(q, k, scale) - given_lse.double().unsqueeze(-1)).exp()
    mass[:, :, torch.arange(q.shape[2]) % every != 0] = 0
    rows = [part.sum(2) for part in mass.split(block, dim=2)]
    return torch.stack(
        [torch.stack([part.sum(-1) for part in row.split(block, dim=-1)], dim=-1) for row in rows], dim=2
    )


def token_mask(block_mask, block, tokens, key_tokens=None, key_block=None):
    """A block mask ``[B, H, nq, nk]`` for single tokens."""
    wide = block_mask.repeat_interleave(key_block or block, dim=-1)[..., : key_tokens or tokens]
    return wide.repeat_interleave(block, dim=-2)[..., :tokens, :]


def recall(weights, mask, rows_per_block):
    """Kept mass over total mass of each head, every query row counting the same."""
    kept = (weights * mask).sum(-1) / weights.sum(-1)
    rows = torch.tensor(rows_per_block, dtype=kept.dtype)
    return (kept * rows).sum(-1) / rows.sum()


def top_k_mask(weights, counts):
    """Row-uniform top-k with ``counts[b][h]`` blocks a row."""
    mask = torch.zeros_like(weights, dtype=torch.bool)
    for b in range(weights.shape[0]):
        for h in range(weights.shape[1]):
            for p in range(weights.shape[2]):
                best = sorted(range(weights.shape[3]), key=lambda c, row=weights[b, h, p]: -float(row[c]))
                mask[b, h, p, best[: counts[b][h]]] = True
    return mask
