"""Attention of one layer as an opaque operator.

`torch.compile` then sees the same graph in every denoising step, whatever the step does: nothing in it depends on the
state of the request. The layer is told by a tensor, because an integer would be compiled in, once for each layer.
"""

from itertools import count
from typing import Protocol
from weakref import WeakValueDictionary

import torch

from adaspa.ops.operation import operation


class Site(Protocol):
    """A layer's attention, as `layer_attention` has it."""

    def attend(self, qkv: list[torch.Tensor], text: list[torch.Tensor]) -> torch.Tensor: ...


_sites: WeakValueDictionary[int, Site] = WeakValueDictionary()
_keys = count()


def register_site(site: Site) -> torch.Tensor:
    """Register ``site``; `layer_attention` finds it by this tensor for as long as somebody else holds it."""
    key = next(_keys)
    _sites[key] = site
    return torch.tensor(key)


# A CUDA graph would replay one step's choice for ever.
@operation("adaspa::layer_attention", tags=(torch.Tag.cudagraph_unsafe,))
def layer_attention(qkv: list[torch.Tensor], text: list[torch.Tensor], site: torch.Tensor) -> torch.Tensor:
    """Compute the attention of the registered site.

    Args:
        qkv: ``[B, S, H, D]`` each, a list. Outside of a graph it is emptied, so that what is no longer read takes no
            memory while attention runs.
        text: the same of text behind them, or an empty list.
        site: as `register_site` returned it.

    Returns:
        ``[B, S + text, H, D]``, contiguous.
    """
    return _sites[int(site)].attend(qkv, text).contiguous()


@layer_attention.register_fake
def _(qkv: list[torch.Tensor], text: list[torch.Tensor], site: torch.Tensor) -> torch.Tensor:
    batch, tokens, *heads = qkv[0].shape
    return qkv[0].new_empty(batch, tokens + sum(x.shape[1] for x in text[:1]), *heads)
