"""Self-attention sequence in blocks."""

from typing import NamedTuple

import torch

from adaspa.index import num_blocks


class Geometry(NamedTuple):
    """Self-attention sequence in blocks.

    ``text`` is the ``(start, stop)`` token range of the text in a joint sequence, or None.
    """

    tokens: int
    query_block: int
    key_block: int
    text: tuple[int, int] | None = None

    @property
    def query_blocks(self) -> int:
        return num_blocks(self.tokens, self.query_block)

    @property
    def key_blocks(self) -> int:
        return num_blocks(self.tokens, self.key_block)

    @property
    def query_text(self) -> range:
        """Query blocks that hold at least one text token."""
        return self._text_blocks(self.query_block)

    @property
    def key_text(self) -> range:
        """Key blocks that hold at least one text token."""
        return self._text_blocks(self.key_block)

    def rows_per_block(self, device: torch.device) -> torch.Tensor:
        """Query rows in each query block, fp32 ``[nq]``: all full but perhaps the last."""
        starts = torch.arange(self.query_blocks, device=device) * self.query_block
        return (self.tokens - starts).clamp(max=self.query_block).float()

    def mean_over_rows(self, per_block: torch.Tensor) -> torch.Tensor:
        """Average a figure of each query block over the query rows: ``[..., nq]`` to ``[...]``."""
        rows = self.rows_per_block(per_block.device)
        return (per_block * rows).sum(-1) / rows.sum()

    def _text_blocks(self, block: int) -> range:
        if self.text is None or self.text[0] >= self.text[1]:
            return range(0)
        return range(self.text[0] // block, num_blocks(self.text[1], block))
