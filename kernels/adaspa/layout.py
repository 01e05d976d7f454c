"""How the tokens of a forward lie in its self-attention sequence."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Layout(NamedTuple):
    """The self-attention sequence of one forward: the video tokens, then the text tokens of a joint sequence.

    Args:
        text_tokens: text tokens in the sequence, with their padding; 0 where the text comes by cross-attention.
        text_lengths: valid text tokens of each sample, the padding behind them; None if all are valid.
        grid: frames, rows and columns of the video tokens; None where the video is not such a grid.
    """

    text_tokens: int = 0
    text_lengths: tuple[int, ...] | None = None
    grid: tuple[int, int, int] | None = None


class Permutation(NamedTuple):
    """Both int64 ``[video tokens]``: where each token of the tile order comes from, and the way back."""

    order: torch.Tensor
    inverse: torch.Tensor
