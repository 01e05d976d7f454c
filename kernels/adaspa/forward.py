"""One forward of a transformer, as its attention layers see it."""

from dataclasses import dataclass

from adaspa.layout import Layout, Permutation
from adaspa.state import AdaSpaState


@dataclass(frozen=True)
class Forward:
    """Made once by the hook of the transformer, before the model runs.

    Args:
        state: the request, at the step and guidance branch of this forward.
        layout: how its tokens lie in the self-attention sequence.
        tiles: the order of its video tokens; None where they stay as the model has them.
    """

    state: AdaSpaState
    layout: Layout
    tiles: Permutation | None = None
