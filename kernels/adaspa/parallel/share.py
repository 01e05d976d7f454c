"""Share of this rank in the sequence of one forward."""

from typing import Any

import torch

from adaspa.deal import Deal
from adaspa.parallel.exchange import Exchange
from adaspa.parallel.ranks import Ranks
from adaspa.parallel.redeal import redealt
from adaspa.state import AdaSpaState

SPLIT = "cp_input---"
"""Diffusers' hook that splits arguments of a transformer's forward."""


class Share:
    """Share of one forward.

    Args:
        ranks: that hold the sequence.
        heads: of each layer.
    """

    def __init__(self, ranks: Ranks, heads: int) -> None:
        self.ranks = ranks
        self.heads = heads
        self._tokens: dict[int, list[int]] = {}

    def tokens(self, own: int, device: torch.device) -> list[int]:
        """Count the tokens that each rank holds, of which this one has ``own``."""
        if own not in self._tokens:
            uneven = self.ranks.uneven
            self._tokens[own] = self.ranks.integers(own, device) if uneven else [own] * self.ranks.size
        return self._tokens[own]

    def as_whole(self, transformer: Any, given: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a forward; latents that a plan splits before it get the shape of all ranks'."""
        registry = getattr(transformer, "_diffusers_hook", None)
        hook = None if registry is None else registry.hooks.get(SPLIT)
        if hook is None or "hidden_states" not in hook.metadata:
            return given
        latents, dim = given["hidden_states"], hook.metadata["hidden_states"].split_dim
        shape = list(latents.shape)
        shape[dim] = sum(self.tokens(shape[dim], latents.device))
        return {**given, "hidden_states": latents.new_empty(shape, device="meta")}

    def exchange(self, state: AdaSpaState, layer: int, q: torch.Tensor) -> Exchange:
        """Make the exchange of ``layer``, whose queries here are ``[B, own tokens, H, D]``."""
        deal: Deal = redealt(state, layer, self.ranks, self.heads, q.device)
        return Exchange(self.ranks, deal, self.tokens(q.shape[1], q.device), q.device)
