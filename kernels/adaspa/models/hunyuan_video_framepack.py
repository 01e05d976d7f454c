"""HunyuanVideo Framepack: HunyuanVideo with the frames that came before, coarser the older they are."""

from math import ceil
from typing import Any

from adaspa.layout import Layout
from adaspa.models.hunyuan_video import HunyuanVideo

HISTORY = {"latents_clean": (1, 2, 2), "latents_history_2x": (2, 4, 4), "latents_history_4x": (4, 8, 8)}
"""Arguments with earlier frames, and how many frames, rows and columns of latents a token holds."""


class HunyuanVideoFramepack(HunyuanVideo):
    """`HunyuanVideoFramepackTransformer3DModel`: earlier frames, then the video, then image and text.

    A single sample has no padding behind its text.
    """

    def plan(self, transformer: Any) -> dict[str, Any] | None:
        return None  # earlier frames come by embeddings of their own

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        before = sum(_tokens(given, name, patch) for name, patch in HISTORY.items())
        image, mask = given["image_embeds"].shape[1], given["encoder_attention_mask"]
        lengths = [image + length for length in mask.sum(dim=1).tolist()]
        if len(lengths) == 1:
            return Layout(lengths[0], before=before)
        return Layout(image + mask.shape[1], tuple(lengths), before=before)


def _tokens(given: dict[str, Any], name: str, patch: tuple[int, int, int]) -> int:
    latents = given.get(name)
    if latents is None or given.get(f"indices_{name}") is None:
        return 0
    frames, rows, columns = (ceil(size / side) for size, side in zip(latents.shape[2:], patch, strict=True))
    return frames * rows * columns
