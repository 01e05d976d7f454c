"""Interface to a model family."""

from collections.abc import Collection
from typing import Any, ClassVar

import torch

from adaspa.layout import Layout
from adaspa.models.processor import AdaSpaProcessor
from adaspa.models.tile_order import Reorder, along


class Family:
    """A transformer class of diffusers, and its like.

    ``processor`` is the class of its self-attention, in the place of diffusers' own, ``originals``; ``timesteps_rise``
    where they do from step to step, instead of falling. For the tile order, ``embeddings`` are the modules and
    ``arguments`` the arguments of its forward (where given) that hold something for each video token; behind
    ``outputs`` the tokens are in raster order again.

    For ranks, ``parted`` are modules that give out feature maps of all tokens: ranks take their part behind them, not
    before the block of the given name, as diffusers' plan has it. ``narrowed`` are those whose output the model reads
    in its own dtype only, although they give out a wider one. ``exchanging`` names the other attention modules that go
    over all video tokens: under our own `plan` those exchange with other ranks as diffusers does it.
    """

    processor: type[AdaSpaProcessor]
    timesteps_rise: ClassVar[bool] = False
    embeddings: ClassVar[dict[str, Reorder]]
    outputs: ClassVar[dict[str, Reorder]] = {"proj_out": along(1)}
    arguments: ClassVar[dict[str, Reorder]] = {}
    parted: ClassVar[dict[str, str]] = {}
    narrowed: ClassVar[tuple[str, ...]] = ()
    exchanging: ClassVar[tuple[str, ...]] = ()
    originals: ClassVar[tuple[type, ...]]

    def layers(self, transformer: Any) -> list[Any]:
        """List the self-attention modules, in the order in which they run."""
        return [block.attn1 for block in transformer.transformer_blocks]

    def plan(self, transformer: Any) -> dict[str, Any] | None:
        """Say how ranks share the video tokens; each has the whole text. None if diffusers has a plan, or nobody has.

        In the terms of diffusers' own context parallelism: what is split behind or before a module, and gathered again.
        """
        return None

    def heads(self, transformer: Any) -> int:
        """Count the heads of each layer."""
        heads: int = self.layers(transformer)[0].heads
        return heads

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        """Lay out the sequence of a forward with the arguments ``given``, by name."""
        return Layout()

    def video_first(self, given: dict[str, Any], layout: Layout) -> dict[str, Any] | None:
        """Return the arguments ``given`` for a sequence with the video first, or None if a model has a fixed order.

        With them attention moves no rows. Otherwise every layer brings the rows of queries, keys and values into the
        order of `Layout.video_first`, and those of its output back.
        """
        return None

    def latents(self, given: dict[str, Any]) -> torch.Tensor:
        """Return the latents that a forward with these arguments denoises."""
        latents: torch.Tensor = given["hidden_states"]
        return latents

    def timestep(self, given: dict[str, Any]) -> torch.Tensor | float | None:
        """Return the timestep of the video in a forward with these arguments."""
        timestep: torch.Tensor | float | None = given.get("timestep")
        return timestep

    def passed_on(self, given: dict[str, Any]) -> Collection[int]:
        """List the layers that pass their values on without attention in a forward with these arguments (STG)."""
        return ()


def patch_grid(latents: torch.Tensor, frames: int, rows: int, columns: int) -> tuple[int, int, int]:
    """Compute the grid of video tokens of latents ``[..., frames, rows, columns]``, in patches of the given size."""
    return latents.shape[-3] // frames, latents.shape[-2] // rows, latents.shape[-1] // columns


def valid_in_front(mask: torch.Tensor) -> tuple[int, ...]:
    """Count the valid tokens of each text of a mask ``[B, tokens]``.

    Raises:
        ValueError: when they do not stand in front of the padding.
    """
    mask = mask.bool()
    lengths = mask.sum(dim=1, dtype=torch.int)
    if not torch.equal(mask, torch.arange(mask.shape[1], device=mask.device) < lengths.unsqueeze(1)):
        raise ValueError("encoder_attention_mask must have the valid tokens of a text in front of its padding")
    return tuple(lengths.tolist())
