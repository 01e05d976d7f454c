"""The kernels of others that ours are timed against. What is not installed says so when it is called."""

from collections.abc import Callable
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from adaspa.index import BlockIndex
from adaspa.self_check import Tensors
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention

DENSE = ("sdpa-cudnn", "sdpa-fa2", "fa3")
"""Attention that whole models are timed with."""
FA4 = "fa4"
"""FlashAttention-4, of the distributions ``flash-attn-4`` and ``nvidia-cutlass-dsl[cu13]``; dense and block-sparse."""
FA4_BLOCKS = ((128, 128), (128, 64), (64, 64))


def dense(name: str, qkv: Tensors) -> Callable[[], Any]:
    """A launch of dense attention by ``name``, one of `DENSE` or `FA4`."""
    if name == FA4:
        return fa4(qkv)
    q, k, v = qkv
    if name == "fa3":
        from fa3_fwd_interface import flash_attn_func  # type: ignore[import-not-found] # noqa: PLC0415 - optional

        rows = [x.transpose(1, 2) for x in qkv]
        return lambda: flash_attn_func(*rows)
    backend = {"sdpa-cudnn": SDPBackend.CUDNN_ATTENTION, "sdpa-fa2": SDPBackend.FLASH_ATTENTION}[name]

    def sdpa() -> torch.Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v)

    return sdpa


def fa4(qkv: Tensors, index: BlockIndex | None = None) -> Callable[[], torch.Tensor]:
    """FlashAttention-4 over all keys or over the blocks of the index, all of them computed whole."""
    from flash_attn.cute.block_sparsity import BlockSparseTensorsTorch  # noqa: PLC0415 - optional
    from flash_attn.cute.interface import flash_attn_func  # noqa: PLC0415 - optional

    rows, kept = [x.transpose(1, 2) for x in qkv], None
    if index is not None:
        partial = torch.zeros_like(index.counts), torch.zeros_like(index.ids, dtype=torch.int32)
        blocks = (index.query_block, index.key_block)
        kept = BlockSparseTensorsTorch(*partial, index.counts, index.ids.int(), block_size=blocks)

    def call() -> torch.Tensor:
        out = flash_attn_func(*rows, block_sparse_tensors=kept)
        return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)

    return call


def flex(qkv: Tensors, index: BlockIndex) -> Callable[[], Any]:
    """FlexAttention over the blocks of the index, all of them computed whole."""
    nk = index.num_key_blocks
    order = torch.zeros(*index.counts.shape, nk, dtype=torch.int32, device="cuda")
    order[..., : index.ids.shape[-1]] = index.ids
    mask = BlockMask.from_kv_blocks(
        torch.zeros_like(index.counts),
        torch.zeros_like(order),
        index.counts,
        order,
        BLOCK_SIZE=(index.query_block, index.key_block),
        seq_lengths=(index.query_tokens, index.key_tokens),
    )
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(*qkv, block_mask=mask)


def fastvideo(qkv: Tensors, index: BlockIndex) -> Callable[[], Any]:
    """The 64 x 64 Triton kernel of FastVideo's VSA."""
    kernel = _fastvideo_module().triton_block_sparse_attn_forward
    sizes = torch.full((index.num_key_blocks,), 64, dtype=torch.int32, device="cuda")
    ids = index.ids.int()
    return lambda: kernel(*qkv, ids, index.counts, sizes)


def _fastvideo_module() -> ModuleType:
    """Its Triton file alone: the package itself loads compiled code that needs another PyTorch."""
    package = find_spec("fastvideo_kernel")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("fastvideo-kernel is not installed")
    path = Path(package.submodule_search_locations[0]) / "triton_kernels" / "block_sparse_attn_triton.py"
    spec = spec_from_file_location("fastvideo_block_sparse", path)
    assert spec is not None and spec.loader is not None, "a path to a Python file gives a loader"
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
