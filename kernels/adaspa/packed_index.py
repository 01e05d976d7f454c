"""A block index without the padding of its lists: what a request keeps of it where memory is short (*ours*)."""

from dataclasses import dataclass

import torch

from adaspa.index import BlockIndex


@dataclass(frozen=True, eq=False)
class PackedIndex:
    """Block lists without padding, on the GPU or the host.

    Args:
        ids: int16 ``[listed]``, the lists of all rows behind each other; full rows have none.
        counts: int16 ``[B, H, nq]``, as in `BlockIndex`.
        width: the longest list.
        query_block, key_block, query_tokens, key_tokens: as in `BlockIndex`.
    """

    ids: torch.Tensor
    counts: torch.Tensor
    width: int
    query_block: int
    key_block: int
    query_tokens: int
    key_tokens: int

    @classmethod
    def pack(cls, index: BlockIndex) -> "PackedIndex":
        """Leave the padding out. Synchronises with the device."""
        geometry = (index.query_block, index.key_block, index.query_tokens, index.key_tokens)
        width = max(1, int(_lengths(index.counts, index.num_key_blocks).max()))
        # Flat, because selecting by a mask lists the place of every entry in each of its dimensions.
        listed = _listed(index.counts, width, index.num_key_blocks)
        ids = index.ids[..., :width].flatten()[listed.flatten()]
        return cls(ids, index.counts.to(torch.int16), width, *geometry)

    def unpack(self, device: torch.device) -> BlockIndex:
        """Unpack the index as it was but for what its padding holds, on ``device``."""
        counts = self.counts.to(device, non_blocking=True).int()
        ids = torch.zeros(*counts.shape, self.width, dtype=torch.int16, device=device)
        index = BlockIndex(ids, counts, self.query_block, self.key_block, self.query_tokens, self.key_tokens)
        listed = _listed(counts, self.width, index.num_key_blocks)
        ids.masked_scatter_(listed, self.ids.to(device, non_blocking=True))
        return index

    @property
    def nbytes(self) -> int:
        return self.ids.nbytes + self.counts.nbytes


def _listed(counts: torch.Tensor, width: int, blocks: int) -> torch.Tensor:
    """Tell which places of the lists hold a block, bool ``[B, H, nq, width]``."""
    return torch.arange(width, device=counts.device) < _lengths(counts, blocks).unsqueeze(-1)


def _lengths(counts: torch.Tensor, blocks: int) -> torch.Tensor:
    """Entries in the list of each row; full rows have none."""
    return torch.where(counts == blocks, 0, counts)
