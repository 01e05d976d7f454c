"""Gathering of the tokens of all ranks, behind the last projection."""

from typing import Any

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook

from adaspa.parallel.ranks import Ranks

HOOK = "adaspa_gather"


class Gather(ModelHook):
    """Gives out the tokens of all ranks, also where their numbers differ: diffusers' own does so with NCCL alone."""

    def __init__(self, ranks: Ranks, dim: int) -> None:
        super().__init__()
        self.ranks = ranks
        self.dim = dim

    def post_forward(self, module: torch.nn.Module, output: torch.Tensor) -> torch.Tensor:
        """Args: output, this rank's tokens along ``dim``."""
        rows = output.transpose(0, self.dim).contiguous()
        return self.ranks.gather(rows, self.ranks.integers(len(rows), rows.device)).transpose(0, self.dim)


def install(transformer: Any, outputs: dict[str, Any], ranks: Ranks) -> None:
    """Gather what the modules of these names give out, along the dimensions that a plan of diffusers has for them."""
    for name, output in outputs.items():
        registry = HookRegistry.check_if_exists_or_initialize(transformer.get_submodule(name))
        registry.register_hook(Gather(ranks, output.gather_dim), HOOK)


def remove(transformer: Any, outputs: dict[str, Any]) -> None:
    """Undo `install`."""
    for name in outputs:
        transformer.get_submodule(name)._diffusers_hook.remove_hook(HOOK, recurse=False)
