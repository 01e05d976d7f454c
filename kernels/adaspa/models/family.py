"""What AdaSpa has to know of a model family."""

from __future__ import annotations

from typing import Any

import torch

from adaspa.layout import Layout
from adaspa.models.processor import AdaSpaProcessor


class Family:
    """A transformer class of diffusers, and its like. ``processor`` is the class of its self-attention."""

    processor: type[AdaSpaProcessor]

    def layers(self, transformer: Any) -> list[Any]:
        """The self-attention modules, in the order in which they run."""
        return [block.attn1 for block in transformer.transformer_blocks]

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        """The sequence of a forward with the arguments ``given``, by name."""
        return Layout()

    def timestep(self, given: dict[str, Any]) -> torch.Tensor | float | None:
        """The timestep of a forward, such that it falls from step to step."""
        return given.get("timestep")
