"""The shapes that are timed, and their random inputs and patterns."""

import json
from pathlib import Path

import torch
from adaspa.index import BlockIndex, num_blocks
from adaspa.self_check import Shape, Tensors

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
LOCAL = Shape("48k", 24, 49_152, 128)
"""Also timed with sharply local attention and with outlier rows."""
PATTERNS = ("uniform", "skewed")
DEMO_PATTERN = Path(__file__).with_name("demo_pattern.json")


def sharply_local(qkv: Tensors, nats: float = 80.0) -> Tensors:
    """Inputs whose scores are so much higher at each row's own place than half a turn of 1,024 tokens from it."""
    q, k, v = (x.clone(memory_format=torch.preserve_format) for x in qkv)
    angle = torch.arange(q.shape[2], device=q.device) * (2 * torch.pi / 1024)
    place = torch.stack([angle.cos(), angle.sin()], -1) * (nats * q.shape[3] ** 0.5 / 2) ** 0.5
    q[..., :2] = k[..., :2] = place
    return q, k, v


def with_outlier_rows(qkv: Tensors, factor: float = 6.0) -> Tensors:
    """Inputs with every 64th query and every 64th key, at other places, multiplied by ``factor``."""
    q, k, v = (x.clone(memory_format=torch.preserve_format) for x in qkv)
    q[:, :, 7::64] *= factor
    k[:, :, 31::64] *= factor
    return q, k, v


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


def shared_with_neighbour(index: BlockIndex) -> float:
    """The share of the kept blocks that the other query block of a pair keeps too."""
    mask = index.to_mask()
    upper, lower = mask[:, :, : mask.shape[2] // 2 * 2].unflatten(2, (-1, 2)).unbind(3)
    return round(float(2 * (upper & lower).sum() / mask.sum()), 3)
