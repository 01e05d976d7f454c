"""EasyAnimate: joint attention over text and video, with projections for the text in most blocks."""

from typing import Any, ClassVar

from diffusers.models.transformers.transformer_easyanimate import EasyAnimateAttnProcessor2_0

from adaspa.layout import Layout
from adaspa.models.family import Family, patch_grid
from adaspa.models.hunyuan_video import HunyuanVideoProcessor
from adaspa.models.tile_order import along, over_maps


class EasyAnimate(Family):
    """`EasyAnimateTransformer3DModel`: it attends to all of its one or two texts, their padding included."""

    processor = HunyuanVideoProcessor
    originals = (EasyAnimateAttnProcessor2_0,)
    embeddings: ClassVar = {"proj": over_maps, "rope_embedding": along(-2)}

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        texts = [given.get(name) for name in ("encoder_hidden_states", "encoder_hidden_states_t5")]
        patch = transformer.config.patch_size
        grid = patch_grid(given["hidden_states"], 1, patch, patch)
        return Layout(sum(text.shape[1] for text in texts if text is not None), grid=grid)
