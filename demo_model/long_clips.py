"""The lengths of clip that the long demo model draws, and where its transformer sees their tokens.

The same scenes are drawn larger and over more frames, so that a clip of any length has the same share of actors. The
rotary positions of a larger grid are those of the small one with further ones between them: a scene's corner stays
where it was, and what was learned at 2,304 tokens is nearly right at 21,504.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from demo_model.architecture import FLOW_SHIFT
from demo_model.scenes import FRAMES, SIDE

LONG_WEIGHTS = Path(__file__).parent / "long_weights"
"""The long model's transformer, a diffusers folder; its other parts are the small model's."""
THETA = 10000.0  # of Wan's rotary frequencies


@dataclass(frozen=True)
class Length:
    """A clip of `frames` frames of `side` by `side` pixels."""

    frames: int
    side: int

    @property
    def grid(self) -> tuple[int, int, int]:
        """Latents in time, height and width."""
        return 1 + (self.frames - 1) // 4, self.side // 8, self.side // 8

    @property
    def tokens(self) -> int:
        return math.prod(self.grid)

    @property
    def shift(self) -> float:
        """Of the noise levels: among more tokens of the same scene, more noise hides as much of it."""
        return FLOW_SHIFT * math.sqrt(self.tokens / SHORT.tokens)


SHORT = Length(FRAMES, SIDE)
MIDDLE = Length(FRAMES, 256)
LONG = Length(81, 256)
LENGTHS = {"short": SHORT, "middle": MIDDLE, "long": LONG}


def place_tokens(transformer: Any, length: Length, latent_frames: Sequence[int] | None = None) -> None:
    """Give `transformer`, a `WanTransformer3DModel`, the rotary positions of clips of this length.

    `latent_frames` are those that it is shown, in ascending order; by default all of them.
    """
    rope = transformer.rope
    rows = rope.freqs_cos.shape[0]
    chosen = torch.arange(rows, dtype=torch.float64)
    frames = chosen if latent_frames is None else torch.tensor(latent_frames, dtype=torch.float64)
    frames = torch.cat([frames, frames.new_zeros(rows - len(frames))])
    angles = []
    axes = zip((rope.t_dim, rope.h_dim, rope.w_dim), (frames, chosen, chosen), SHORT.grid, length.grid, strict=True)
    for width, positions, few, many in axes:
        frequencies = THETA ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles.append(torch.outer(positions * few / many, frequencies).repeat_interleave(2, dim=1))
    table = torch.cat(angles, dim=1).to(rope.freqs_cos.device)
    rope.freqs_cos, rope.freqs_sin = table.cos().float(), table.sin().float()
