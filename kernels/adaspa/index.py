"""Compact list of the key blocks that each query block attends to."""

from dataclasses import dataclass
from functools import cached_property

import torch

BLOCK_SIZES = (16, 32, 64, 128)
MAX_BLOCKS = 2**15 - 1


def is_block_size(value: object) -> bool:
    """Tell whether a block may have that many tokens; 64.0 is not a number of them."""
    return isinstance(value, int) and value in BLOCK_SIZES


def num_blocks(tokens: int, block: int) -> int:
    """Blocks of ``block`` tokens that cover ``tokens``; the last may be partial."""
    return -(-tokens // block)


@dataclass(frozen=True, eq=False)
class BlockIndex:
    """Index of the key blocks that every query block of every head attends to.

    With ``nq`` query blocks and ``nk`` key blocks:

    Args:
        ids: int16 ``[B, H, nq, kmax]``; the first ``counts`` entries of a row are key block ids in ascending order, the
            rest is padding (valid ids, never read). A row with ``counts == nk`` keeps every block and its ids are never
            read, so that a few full rows (text queries) do not widen the lists of all the others.
        counts: int32 ``[B, H, nq]``, the number of kept key blocks, 0 to ``nk``. Only full rows may exceed ``kmax``.
        query_block, key_block: tokens in a block: 16, 32, 64 or 128.
        query_tokens, key_tokens: tokens in the sequences; the last block of each may be partial.

    Raises:
        ValueError: when a block is not supported, or shapes, dtypes or devices do not fit the geometry.
    """

    ids: torch.Tensor
    counts: torch.Tensor
    query_block: int
    key_block: int
    query_tokens: int
    key_tokens: int

    def __post_init__(self) -> None:
        _check_blocks(self.query_block, self.key_block)
        if self.ids.dtype != torch.int16 or self.ids.ndim != 4:
            raise ValueError(f"ids must be int16 [B, H, nq, kmax], got {self.ids.dtype} {tuple(self.ids.shape)}")
        if self.counts.dtype != torch.int32 or self.counts.shape != self.ids.shape[:3]:
            raise ValueError(
                f"counts must be int32 {tuple(self.ids.shape[:3])}, got {self.counts.dtype} {tuple(self.counts.shape)}"
            )
        if self.counts.device != self.ids.device:
            raise ValueError(f"counts must be on the device of ids, {self.ids.device}, got {self.counts.device}")
        if self.ids.shape[2] != self.num_query_blocks:
            raise ValueError(
                f"ids must have {self.num_query_blocks} rows for {self.query_tokens} query tokens in blocks of "
                f"{self.query_block}, got {self.ids.shape[2]}"
            )
        if not 1 <= self.num_key_blocks <= MAX_BLOCKS:
            raise ValueError(
                f"key_tokens must fill 1 to {MAX_BLOCKS} blocks of {self.key_block}, got {self.key_tokens}"
            )
        if not 1 <= self.ids.shape[3] <= self.num_key_blocks:
            raise ValueError(f"ids must be 1 to {self.num_key_blocks} blocks wide, got {self.ids.shape[3]}")

    @classmethod
    def from_mask(
        cls, mask: torch.Tensor, *, query_block: int, key_block: int, query_tokens: int, key_tokens: int
    ) -> "BlockIndex":
        """Make the index of a boolean block mask ``[B, H, nq, nk]``. Synchronises with the device."""
        _check_blocks(query_block, key_block)
        if mask.dtype != torch.bool or mask.ndim != 4:
            raise ValueError(f"mask must be bool [B, H, nq, nk], got {mask.dtype} {tuple(mask.shape)}")
        if mask.shape[-1] != num_blocks(key_tokens, key_block):
            raise ValueError(f"mask must have {num_blocks(key_tokens, key_block)} key blocks, got {mask.shape[-1]}")
        counts = mask.sum(-1, dtype=torch.int32)
        width = max(1, int(counts.max()))
        ids = (~mask).to(torch.int8).argsort(dim=-1, stable=True)[..., :width].to(torch.int16)
        return cls(ids, counts, query_block, key_block, query_tokens, key_tokens)

    @property
    def num_query_blocks(self) -> int:
        return num_blocks(self.query_tokens, self.query_block)

    @property
    def num_key_blocks(self) -> int:
        return num_blocks(self.key_tokens, self.key_block)

    @property
    def nbytes(self) -> int:
        """Bytes that the index holds on its device."""
        return self.ids.nbytes + self.counts.nbytes

    def head_density(self) -> torch.Tensor:
        """Compute the kept share of the blocks of each head: fp32 ``[B, H]``."""
        return self.counts.float().mean(-1) / self.num_key_blocks

    def head_share(self) -> torch.Tensor:
        """Compute the kept share of the query-key pairs of each head: fp32 ``[B, H]``.

        It differs from the density where the last block of queries or keys is partial, as in short sequences.
        """
        nk, short = self.num_key_blocks, -self.key_tokens % self.key_block
        last = self.ids.gather(-1, (self.counts.long() - 1).clamp(0, self.ids.shape[-1] - 1).unsqueeze(-1)).squeeze(-1)
        keeps_last = (self.counts == nk) | ((last == nk - 1) & (self.counts > 0))
        keys = self.counts * self.key_block - keeps_last * short
        queries = torch.full_like(keys[0, 0], self.query_block)
        queries[-1] -= -self.query_tokens % self.query_block
        return (keys.float() @ queries.float()) / (self.query_tokens * self.key_tokens)

    def density(self) -> float:
        """Compute the kept share of all blocks. Synchronises with the device."""
        return float(self.head_density().mean())

    def to_mask(self) -> torch.Tensor:
        """Convert the index to a boolean block mask ``[B, H, nq, nk]``."""
        nk = self.num_key_blocks
        listed = torch.arange(self.ids.shape[-1], device=self.ids.device) < self.counts.unsqueeze(-1)
        mask = torch.zeros(*self.counts.shape, nk + 1, dtype=torch.bool, device=self.ids.device)
        # Padding goes to a column of its own that is cut off again.
        mask.scatter_(-1, torch.where(listed, self.ids.long(), nk), True)
        return mask[..., :nk] | (self.counts == nk).unsqueeze(-1)

    @cached_property
    def rows_by_count(self) -> tuple[torch.Tensor, list[int]]:
        """Rows of the flattened ``[B * H * nq]`` with the longest list first, and their counts on the host.

        Cached, because one index serves many denoising steps. Synchronises with the device.
        """
        counts, order = self.counts.flatten().sort(descending=True, stable=True)
        return order, counts.tolist()


def _check_blocks(query_block: int, key_block: int) -> None:
    for name, block in (("query_block", query_block), ("key_block", key_block)):
        if not is_block_size(block):
            raise ValueError(f"{name} must be one of {BLOCK_SIZES}, got {block!r}")
