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
    """A layer's attention, ``[B, S, H, D]`` to ``[B, S, H, D]``."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor: ...


_sites: WeakValueDictionary[int, Site] = WeakValueDictionary()
_keys = count()


def register_site(site: Site) -> torch.Tensor:
    """Register ``site``; `layer_attention` finds it by this tensor for as long as somebody else holds it."""
    key = next(_keys)
    _sites[key] = site
    return torch.tensor(key)


# A CUDA graph would replay one step's choice for ever.
@operation("adaspa::layer_attention", tags=(torch.Tag.cudagraph_unsafe,))
def layer_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, site: torch.Tensor) -> torch.Tensor:
    """Compute the attention of the registered site: ``[B, S, H, D]``, contiguous."""
    return _sites[int(site)].attend(q, k, v).contiguous()


@layer_attention.register_fake
def _(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, site: torch.Tensor) -> torch.Tensor:
    return q.new_empty(q.shape)
