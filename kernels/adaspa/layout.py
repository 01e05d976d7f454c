"""Layout of a forward's tokens in its self-attention sequence."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from adaspa.selection import Selected


class Layout(NamedTuple):
    """Self-attention sequence of one forward: rows of other kinds, the video tokens, other rows, then text.

    Rows that are not video (text, conditioning frames, sound) stay dense as queries and are kept as keys by all.

    Args:
        text_tokens: rows behind the video, with their padding; 0 where the text comes by cross-attention.
        text_lengths: valid ones of them for each sample, the padding behind them; None if all are valid.
        grid: frames, rows and columns of the video tokens; None where the video is not such a grid, or where the model
            itself goes by its order.
        before: rows before the video.
        masked: whether the model has a mask between video tokens, under which all layers attend as without AdaSpa.
        behind: rows behind the video, before the text, that a model has among its video tokens: frames that the clip
            comes to.
        pattern: what chooses the blocks from queries and keys ``[B, H, S, D]`` in every step and layer, in a model that
            was trained with a sparse pattern; None where the schedule has it.
    """

    text_tokens: int = 0
    text_lengths: tuple[int, ...] | None = None
    grid: tuple[int, int, int] | None = None
    before: int = 0
    masked: bool = False
    behind: int = 0
    pattern: Callable[[torch.Tensor, torch.Tensor], Selected] | None = None

    def video_first(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, S, ...]`` with the rows before the video behind it, so that the blocks start where the video starts."""
        if not self.before:
            return x
        end = x.shape[1] - self.text_tokens
        return torch.cat((x[:, self.before : end], x[:, : self.before], x[:, end:]), dim=1)

    def with_video_first(self) -> "Layout":
        """Return the layout of the same rows in a model that gets them with the video first."""
        return self._replace(before=0, text_tokens=self.before + self.text_tokens)

    def as_it_was(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, S, ...]`` in the model's own order again."""
        if not self.before:
            return x
        end = x.shape[1] - self.text_tokens
        video = end - self.before
        return torch.cat((x[:, video:end], x[:, :video], x[:, end:]), dim=1)


class Permutation(NamedTuple):
    """Both int64 ``[video tokens]``: where each token of the tile order comes from, and the way back."""

    order: torch.Tensor
    inverse: torch.Tensor
