"""SGLang's own SubBlock: its router, and FlashAttention-4's block-sparse kernel, which SGLang runs on Hopper GPUs.

Needs the files of ``sglang`` 0.5.23 (``pip install --no-deps``), ``flash-attn-4[cu13]`` and ``msgspec``. SGLang's copy
of the kernel imports the whole server.
"""

import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

BLOCK = 64
BACKENDS = "sglang.multimodal_gen.runtime.layers.attention.backends"


class Parts(NamedTuple):
    """SubBlock in two: ``route(q, k)`` gives a plan, ``attend(q, k, v, plan)`` runs the kernel under it."""

    name: str
    layout: Callable[[torch.Tensor], torch.Tensor]
    """Lays out a tensor of ``[B, H, S, D]`` for both, before anything is timed."""
    route: Callable[..., Any]
    attend: Callable[..., Any]
    density: Callable[[Any], float]
    """Share of the blocks that a plan keeps."""


def load(sparsity: float) -> Parts:
    """Load both parts alone.

    The packages around the router import a whole server, so it is entered by its folder.

    Raises:
        ImportError: when SGLang's files or what the kernel needs are missing.
    """
    _enter(BACKENDS)
    from flash_attn.cute.block_sparsity import BlockSparseTensorsTorch  # noqa: PLC0415  optional
    from flash_attn.cute.interface import flash_attn_func  # noqa: PLC0415
    from sglang.multimodal_gen.runtime.layers.attention.backends.subblock_sparse.router import (  # noqa: PLC0415
        SubBlockRouter,
    )

    router = SubBlockRouter(n_k=4, n_q=4)

    def route(q: torch.Tensor, k: torch.Tensor) -> Any:
        plan = router.route(q, k, sparsity=sparsity, softmax_scale=q.shape[-1] ** -0.5)
        return plan, plan.index.sort(dim=-1).values  # the kernel for Hopper wants each row's blocks in order

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, routed: Any) -> torch.Tensor:
        plan, index = routed
        counts = torch.full(index.shape[:-1], plan.topk, dtype=torch.int32, device=index.device)
        blocks = BlockSparseTensorsTorch(
            mask_block_cnt=counts,
            mask_block_idx=index,
            full_block_cnt=None,
            full_block_idx=None,
            block_size=(BLOCK, BLOCK),
        )
        found: torch.Tensor = flash_attn_func(
            q, k, v, softmax_scale=q.shape[-1] ** -0.5, num_splits=1, block_sparse_tensors=blocks
        )[0]
        return found

    def layout(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.transpose(1, 2).contiguous()

    name = f"SGLang {version('sglang')}, FlashAttention-4 {version('flash-attn-4')}"
    return Parts(name, layout, route, attend, lambda routed: routed[0].density)


def _enter(name: str) -> None:
    """Make a package importable without running the ``__init__`` of it and of those above."""
    spec = find_spec("sglang") if "sglang" not in sys.modules else sys.modules["sglang"].__spec__
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("sglang is not installed")
    root = Path(spec.submodule_search_locations[0])
    above, *below = name.split(".")
    for depth in range(len(below) + 1):
        path = ".".join((above, *below[:depth]))
        if path not in sys.modules:
            module = ModuleType(path)
            module.__path__ = [str(root.joinpath(*below[:depth]))]
            module.__spec__ = spec if path == "sglang" else None
            sys.modules[path] = module
