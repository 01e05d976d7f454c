"""Demands of every operation on its tensors."""

import math

import torch

from adaspa.index import BLOCK_SIZES, is_block_size

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_qkv(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """Raise ValueError unless q is ``[B, H, Sq, D]`` and k, v are ``[B, H, Sk, D]`` of one dtype and device."""
    check_qk(q, k)
    if v.shape != k.shape:
        raise ValueError(f"v must have the shape of k, {tuple(k.shape)}, got {tuple(v.shape)}")
    _check_same("v", v, q)


def check_qk(q: torch.Tensor, k: torch.Tensor) -> None:
    """Raise ValueError unless q is ``[B, H, Sq, D]`` and k ``[B, H, Sk, D]`` of one dtype and device."""
    got, keys = q.shape, k.shape
    if len(got) != 4 or 0 in got:
        raise ValueError(f"q must be [B, H, S, D] with no empty dimension, got {tuple(got)}")
    if keys != got and (len(keys) != 4 or keys[:2] != got[:2] or keys[3] != got[3] or keys[2] == 0):
        raise ValueError(f"k must be [{got[0]}, {got[1]}, S, {got[3]}] like q, got {tuple(keys)}")
    if q.dtype not in DTYPES:
        raise ValueError(f"q must be one of {DTYPES}, got {q.dtype}")
    _check_same("k", k, q)


def check_lse(lse: torch.Tensor, q: torch.Tensor) -> None:
    """Raise ValueError unless lse is ``[B, H, Sq]`` on the device of q."""
    if lse.shape != q.shape[:3] or not lse.is_floating_point():
        raise ValueError(f"lse must be floating point {tuple(q.shape[:3])}, got {lse.dtype} {tuple(lse.shape)}")
    if lse.device != q.device:
        raise ValueError(f"lse must be on the device of q, {q.device}, got {lse.device}")


def check_key_block(key_block: int) -> None:
    """Raise ValueError unless key_block is a supported number of tokens."""
    if not is_block_size(key_block):
        raise ValueError(f"key_block must be one of {BLOCK_SIZES}, got {key_block!r}")


def check_blocks(key_block: int, query_block: int | None) -> int:
    """Return the tokens of a query block; ValueError unless both are supported and it is a multiple of the other."""
    check_key_block(key_block)
    if query_block is None:
        return key_block
    if not is_block_size(query_block) or query_block % key_block:
        raise ValueError(
            f"query_block must be one of {BLOCK_SIZES} and a multiple of key_block={key_block}, got {query_block!r}"
        )
    return query_block


def softmax_scale(scale: float | None, q: torch.Tensor) -> float:
    """Return the given scale of q.k, or ``D ** -0.5``; ValueError unless it is positive and finite."""
    if scale is not None and not 0 < scale < math.inf:
        raise ValueError(f"scale must be positive and finite, got {scale!r}")
    return float(q.shape[-1]) ** -0.5 if scale is None else float(scale)


def _check_same(name: str, tensor: torch.Tensor, q: torch.Tensor) -> None:
    if tensor.dtype != q.dtype or tensor.device != q.device:
        raise ValueError(f"{name} must be {q.dtype} on {q.device} like q, got {tensor.dtype} on {tensor.device}")
