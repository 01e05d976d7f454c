"""SGLang's own SubBlock router, from the files of its wheel (``pip install --no-deps sglang==0.5.23 msgspec``)."""

import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from adaspa.index import BlockIndex

BLOCK = 64
BACKENDS = "sglang.multimodal_gen.runtime.layers.attention.backends"


class Router(NamedTuple):
    """A choice of blocks: ``route(q, k)`` chooses, on tensors laid out for it; ``lists`` makes our index of that."""

    name: str
    layout: Callable[[torch.Tensor], torch.Tensor]
    """Lays out a tensor of ``[B, H, S, D]``, before anything is timed."""
    route: Callable[[torch.Tensor, torch.Tensor], torch.Tensor | BlockIndex]
    lists: Callable[[torch.Tensor | BlockIndex, int], BlockIndex]


def load(sparsity: float) -> Router:
    """Load the router alone: the packages around it import a whole server, so it is entered by its folder.

    Raises:
        ImportError: when SGLang's files or ``msgspec`` are missing.
    """
    _enter(BACKENDS)
    from sglang.multimodal_gen.runtime.layers.attention.backends.subblock_sparse.router import (  # noqa: PLC0415
        SubBlockRouter,
    )

    router = SubBlockRouter(n_k=4, n_q=4)

    def route(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        plan = router.route(q, k, sparsity=sparsity, softmax_scale=q.shape[-1] ** -0.5)
        ordered: torch.Tensor = plan.index.sort(dim=-1).values  # as the server does for its kernel on Hopper GPUs
        return ordered

    def layout(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.transpose(1, 2).contiguous()

    return Router(f"SGLang {version('sglang')}", layout, route, _lists)


def _lists(chosen: torch.Tensor | BlockIndex, tokens: int) -> BlockIndex:
    assert isinstance(chosen, torch.Tensor)
    counts = torch.full(chosen.shape[:-1], chosen.shape[-1], dtype=torch.int32, device=chosen.device)
    return BlockIndex(chosen.to(torch.int16), counts, BLOCK, BLOCK, tokens, tokens)


def _enter(name: str) -> None:
    """Make a package importable without running the ``__init__`` of it and of those above."""
    spec = sys.modules["sglang"].__spec__ if "sglang" in sys.modules else find_spec("sglang")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("sglang is not installed")
    root = Path(spec.submodule_search_locations[0])
    first, *below = name.split(".")
    for depth in range(len(below) + 1):
        path = ".".join((first, *below[:depth]))
        if path not in sys.modules:
            module = ModuleType(path)
            module.__path__ = [str(root.joinpath(*below[:depth]))]
            module.__spec__ = spec if path == "sglang" else None
            sys.modules[path] = module
