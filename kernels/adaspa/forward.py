"""One forward of a transformer, as its attention layers see it."""

from dataclasses import dataclass

from adaspa.heads import ALL_HEADS, Heads
from adaspa.layout import Layout, Permutation
from adaspa.parallel.share import Share
from adaspa.state import AdaSpaState


@dataclass(frozen=True)
class Forward:
    """Made once by the hook of the transformer, before the model runs.

    Args:
        state: the request, at the step and guidance branch of this forward.
        layout: how its tokens lie in the self-attention sequence.
        tiles: the order of its video tokens; None where they stay as the model has them.
        share: what this rank has of the sequence, where ranks share it; None where it is whole.
        heads: which heads of the layer are attended with.
    """

    state: AdaSpaState
    layout: Layout
    tiles: Permutation | None = None
    share: Share | None = None
    heads: Heads = ALL_HEADS
