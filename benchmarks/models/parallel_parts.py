"""The models of `benchmarks.models.parallel`, with few of their blocks."""

from dataclasses import dataclass, replace
from typing import Any

from benchmarks.models.block_models import BLOCK_MODELS
from benchmarks.models.full_models import MODELS, FullModel


@dataclass(frozen=True)
class Part:
    """A model with few of its blocks, and how processes make a video with it together.

    Args:
        model: the whole model.
        config: what makes it one of few blocks.
        blocks: how many they are, and how many the model has.
        modes: ``ulysses``, and ``guidance`` where the model is called once for each branch.
        tokens, text: of its video, and of its text where that is in the self-attention sequence of every rank.
        heads: of 128 channels.
    """

    model: FullModel
    config: dict[str, Any]
    blocks: tuple[int, int]
    modes: tuple[str, ...]
    tokens: int
    text: int
    heads: int

    def few(self) -> FullModel:
        """The model with few of its blocks."""
        return replace(self.model, config={**self.model.config, **self.config})

    def quick(self, heads: int) -> "Part":
        """A small one for a CPU, with so many heads."""
        model = self.model.quick()
        model = replace(model, config={**model.config, "num_attention_heads": heads})
        return replace(self, model=model, tokens=128, heads=heads)


PARTS = {
    part.model.name: part
    for part in (
        Part(
            MODELS["hunyuan-video-13b-720p-129f"],
            {"num_layers": 1, "num_single_layers": 2},
            (3, 60),
            ("ulysses",),
            118_800,
            256,
            24,
        ),
        Part(MODELS["wan2.1-14b-720p-81f"], {"num_layers": 2}, (2, 40), ("guidance", "ulysses"), 75_600, 0, 40),
        Part(BLOCK_MODELS["minimax-h3-33b-768p-10s"], {"num_layers": 2}, (2, 50), ("ulysses",), 74_656, 0, 56),
    )
}


def skewed_shares(heads: int) -> list[float]:
    """What each head of a skewed pattern keeps, in means: from half in the first to one and a half in the last."""
    return [0.5 + head / (heads - 1) for head in range(heads)]
