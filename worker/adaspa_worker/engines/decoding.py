"""Decoding of a clip: a VAE's state around it, and the frames that come of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaspa_worker.pipeline import NotFinite


@contextmanager
def decoding(vae: Any, *, in_tiles: bool) -> Iterator[None]:
    """Within the block a VAE decodes in tiles or not; behind it, it is as before and holds nothing of the clip."""
    switched = in_tiles and not vae.use_tiling
    if switched:
        vae.enable_tiling()
    try:
        yield
    finally:
        if switched:
            vae.disable_tiling()
        if clear := getattr(vae, "clear_cache", None):
            clear()


@contextmanager
def watched(
    decoder: torch.nn.Module, check: Callable[[], None], on_part: Callable[[Tensor], None] | None
) -> Iterator[None]:
    """Within the block each call of the decoder, for a latent frame or a tile, begins with ``check``, which may raise.

    Args:
        on_part: gets what each call gives, if these are parts of the clip.
    """
    hooks = [decoder.register_forward_pre_hook(lambda *_: check())]
    if on_part is not None:
        hooks.append(decoder.register_forward_hook(lambda *call: on_part(call[-1])))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def frames_of(video: Tensor, pixels: Callable[[Tensor], Tensor]) -> Iterator[np.ndarray]:
    """Yield decoded frames [1, 3, frames, height, width] as uint8 RGB [height, width, 3].

    Args:
        pixels: takes a frame to black at 0 and white at 1.

    Raises:
        NotFinite: a value is no number.
    """
    frames = video[0].unbind(dim=1)
    if not all(frame.isfinite().all() for frame in frames):
        raise NotFinite("the decoded frames are not finite")
    for frame in frames:
        scaled = pixels(frame.float()).clamp(0, 1).mul(255).round().to(torch.uint8)
        yield scaled.permute(1, 2, 0).contiguous().cpu().numpy()


def placed(given: list[Any], device: torch.device) -> list[Any]:
    """Copy the tensors that a VAE is given to another device."""
    return [part.to(device) if isinstance(part, Tensor) else part for part in given]
