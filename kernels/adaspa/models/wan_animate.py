"""Wan Animate: Wan with a pose added to its tokens, and a face attended to between its blocks."""

from typing import Any

from diffusers.models.transformers.transformer_wan_animate import WanAttnProcessor

from adaspa.layout import Layout
from adaspa.models.wan import Wan


class WanAnimate(Wan):
    """`WanAnimateTransformer3DModel`. Its face adapter attends frame by frame, so the tokens must stay in order."""

    originals = (WanAttnProcessor,)

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        return Layout()
