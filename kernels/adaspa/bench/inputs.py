"""The shapes that are timed, and their random inputs and patterns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch

from adaspa.index import BlockIndex, num_blocks

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Shape(NamedTuple):
    """The self-attention of one layer, batch 1."""

    name: str
    heads: int
    tokens: int
    dim: int


SHAPES = (
    Shape("hunyuan-video-720p", 24, 115_200, 128),
    Shape("wan-14b-720p", 40, 75_600, 128),
    Shape("cogvideox1.5-5b", 30, 45_000, 64),
    Shape("wan-1.3b-480p", 12, 32_760, 128),
    Shape("16k", 24, 16_384, 128),
    Shape("8k", 24, 8_192, 128),
    Shape("4k", 24, 4_096, 128),
    Shape("2k", 24, 2_048, 128),
)
PATTERNS = ("uniform", "skewed")
DEMO_PATTERN = Path(__file__).with_name("demo_pattern.json")


def random_qkv(shape: Shape, dtype: torch.dtype) -> Tensors:
    """Inputs as a projection leaves them: ``[B, S, H, D]`` seen as ``[B, H, S, D]``."""
    generator = torch.Generator("cuda").manual_seed(0)
    size = (1, shape.tokens, shape.heads, shape.dim)
    q, k, v = (torch.randn(size, generator=generator, device="cuda", dtype=dtype).transpose(1, 2) for _ in range(3))
    return q, k, v


def random_weights(shape: Shape, tile: tuple[int, int], pattern: str) -> torch.Tensor:
    """Block weights ``[1, H, nq, nk]`` whose largest are anywhere, or along diagonals and columns as in a video."""
    nq, nk = (num_blocks(shape.tokens, block) for block in tile)
    generator = torch.Generator("cuda").manual_seed(1)
    weights = torch.rand(1, shape.heads, nq, nk, generator=generator, device="cuda")
    if pattern == "skewed":
        rows, columns = (torch.arange(n, device="cuda") / n for n in (nq, nk))
        weights += 4 * torch.exp(-32 * (rows.unsqueeze(1) - columns).abs())
        weights += 2 * (torch.rand(1, shape.heads, 1, nk, generator=generator, device="cuda") > 0.97)
    return weights


def random_index(density: float, shape: Shape, tile: tuple[int, int], pattern: str) -> BlockIndex:
    """The largest blocks of each row: equally many in every row if uniform, else from a quarter to 7/4 of the mean.

    The heads of a skewed index differ most and its rows half as much, as under head-adaptive and retained-mass
    selection.
    """
    weights = random_weights(shape, tile, pattern)
    nk = weights.shape[-1]
    factors = torch.ones(weights.shape[:3], device="cuda")
    if pattern == "skewed":
        factors += torch.linspace(-0.5, 0.5, shape.heads, device="cuda").unsqueeze(-1)
        factors += torch.linspace(-0.25, 0.25, weights.shape[2], device="cuda")
    counts = (factors * density * nk).round().int().clamp(1, nk)
    width = int(counts.max())
    ranked = weights.topk(width, dim=-1).indices
    listed = torch.arange(width, device="cuda") < counts.unsqueeze(-1)
    ids = torch.where(listed, ranked, nk).sort(dim=-1).values.clamp_(max=nk - 1).to(torch.int16)
    return BlockIndex(ids, counts, *tile, shape.tokens, shape.tokens)


def demo_index(shape: Shape, tile: tuple[int, int], device: str = "cuda") -> BlockIndex:
    """The patterns of the demo model's heads, in turn, each as large as the shape: one of its blocks is an area here.

    `python -m demo_model.pattern` recorded them.
    """
    heads = json.loads(DEMO_PATTERN.read_text())["heads"]
    kept = torch.tensor([[list(map(int, row)) for row in head] for head in heads], dtype=torch.bool, device=device)
    rows, columns = (
        torch.arange(blocks, device=device) * size // blocks
        for blocks, size in zip((num_blocks(shape.tokens, block) for block in tile), kept.shape[1:], strict=True)
    )
    mask = kept[torch.arange(shape.heads, device=device) % len(kept)][:, rows][:, :, columns]
    return BlockIndex.from_mask(
        mask[None], query_block=tile[0], key_block=tile[1], query_tokens=shape.tokens, key_tokens=shape.tokens
    )


def imbalance(index: BlockIndex) -> float:
    """The longest list over the mean one: 1 where every query block has equal work."""
    counts = index.counts.float()
    return round(float(counts.max() / counts.mean()), 3)
