"""Wan VACE: Wan with a second stack of blocks that reads the control video, before those of the video."""

from typing import Any, ClassVar

from adaspa.layout import Layout
from adaspa.models.tile_order import along, over_grid
from adaspa.models.wan import Wan


class WanVACE(Wan):
    """`WanVACETransformer3DModel`: both stacks attend over the whole video, the control stack first."""

    embeddings: ClassVar = {"patch_embedding": over_grid, "vace_patch_embedding": over_grid, "rope": along(-3)}

    def layers(self, transformer: Any) -> list[Any]:
        return [block.attn1 for block in (*transformer.vace_blocks, *transformer.blocks)]

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        layout = super().layout(transformer, given)
        same = given["control_hidden_states"].shape[2:] == given["hidden_states"].shape[2:]
        # A shorter control video is padded behind the patch embedding.
        return layout if same else layout._replace(grid=None)
