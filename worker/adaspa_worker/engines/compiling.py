"""Compilation of a transformer's blocks, each by itself, within the hooks that a step cache puts around them."""

from typing import Any

import torch


def compile_blocks(transformer: Any, **options: Any) -> None:
    """Compile the blocks that diffusers names for it (``_repeated_blocks``), so that a step cache can be put in place.

    `compile_repeated_blocks` compiles a block's call, with the hooks in it. A step cache's hook asks not to be
    compiled, so that the block's forward within would run uncompiled. Here the forward is what is compiled.

    Args:
        transformer: without a step cache.
        options: of ``torch.compile``.

    Raises:
        ValueError: diffusers names no blocks of the transformer.
    """
    names = transformer._repeated_blocks or ()
    blocks = [module for module in transformer.modules() if type(module).__name__ in names]
    if not blocks:
        raise ValueError(f"diffusers must name the blocks to compile in a {type(transformer).__name__}, and does not")
    for block in blocks:
        block.forward = torch.compile(block.forward, **options)
