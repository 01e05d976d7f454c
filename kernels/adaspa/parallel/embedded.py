"""Tensors of all tokens that a model embeds its latents in, which ranks need only a part of, or in fewer bytes."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch

from adaspa.parallel.ranks import Ranks


def install(transformer: Any, parted: Iterable[str], narrowed: Iterable[str], ranks: Ranks) -> list[Callable[[], None]]:
    """Have modules of these names give out less; calls that undo it.

    Args:
        parted: give out feature maps ``[B, C, F, H, W]``, whose tokens are split behind them.
        narrowed: give out what the model then turns into its own dtype.
    """
    hooks = {
        **dict.fromkeys(parted, partial(_part, ranks)),
        **dict.fromkeys(narrowed, partial(_narrow, transformer.dtype)),
    }
    return [transformer.get_submodule(name).register_forward_hook(hook).remove for name, hook in hooks.items()]


def _part(ranks: Ranks, module: Any, given: Any, maps: torch.Tensor) -> torch.Tensor:
    """Give out this rank's tokens, as maps of one row, and let go of the others."""
    return maps.flatten(2).tensor_split(ranks.size, dim=2)[ranks.rank][:, :, None, None].contiguous()


def _narrow(dtype: torch.dtype, module: Any, given: Any, out: torch.Tensor) -> torch.Tensor:
    return out.to(dtype)
