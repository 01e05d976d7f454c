"""q, k and v as eight bits hold them.

Queries and keys are int8, with a scale for each query row and each block of 64 keys. Before, the mean over the tokens
is subtracted from k, which adds a number to each row of scores, and softmax does not see it; and each channel of q and
k is brought to one size, by a factor that their product does not see. Both take outlier channels out. Values are e4m3,
with a scale for each head and channel.

Why not e4m3 for all: its three bits of mantissa make each product uncertain by 4 %, and a row's score by as much of its
size. int8 is three times as exact once no channel stands out.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

KEYS = 64
"""Keys that share a scale."""
LEAST = 1e-12
"""Smallest size of what a scale is taken from."""
E4M3_MAX = 448.0


class Rounded(NamedTuple):
    """fp32 tensors of the values that int8 holds, times their scales."""

    q: torch.Tensor
    k: torch.Tensor
    offsets: torch.Tensor
    """Share of k's mean in each row of scores, before the scale of q.k: ``[B, H, Sq]``."""


def rounded(q: torch.Tensor, k: torch.Tensor) -> Rounded:
    """Round q ``[B, H, Sq, D]`` and k ``[B, H, Sk, D]`` to int8. What is no finite number stays in its head."""
    q, k = q.float(), k.float()
    mean = k.mean(2, keepdim=True)
    centered = k - mean
    factors = (_size(centered, 2) / _size(q, 2)).sqrt()
    keys = _blocks(centered / factors)
    return Rounded(
        _int8(q * factors, 3),
        _int8(keys, (3, 4)).flatten(2, 3)[:, :, : k.shape[2]],
        (q * mean).sum(-1),
    )


def rounded_values(v: torch.Tensor) -> torch.Tensor:
    """Return v ``[B, H, Sk, D]`` as e4m3 holds it, in fp32."""
    v = v.float()
    scale = _size(v, 2) / E4M3_MAX
    # PyTorch makes NaN of what is larger than the largest number; hardware saturates.
    return (v / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).float() * scale


def _blocks(k: torch.Tensor) -> torch.Tensor:
    """Keys as ``[B, H, blocks, 64, D]``, with zeros behind the last one."""
    return F.pad(k, (0, 0, 0, -k.shape[2] % KEYS)).unflatten(2, (-1, KEYS))


def _size(x: torch.Tensor, dims: int | tuple[int, ...]) -> torch.Tensor:
    return x.abs().amax(dims, keepdim=True).clamp_min(LEAST)


def _int8(x: torch.Tensor, dims: int | tuple[int, ...]) -> torch.Tensor:
    scale = _size(x, dims) / 127
    return (x / scale).round() * scale
