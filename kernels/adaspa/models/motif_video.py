"""Motif-Video: joint attention over video and text as in HunyuanVideo; its decoder reads the encoder's video."""

from typing import Any, ClassVar

from diffusers.models.transformers.transformer_motif_video import MotifVideoAttnProcessor2_0

from adaspa.layout import Layout
from adaspa.models.family import Family, patch_grid, valid_in_front
from adaspa.models.hunyuan_video import HunyuanVideoProcessor
from adaspa.models.tile_order import along


class MotifVideo(Family):
    """`MotifVideoTransformer3DModel`: image and text behind the video.

    The decoder's layers stay as they are: all of the encoder's video stands beside their own, as text does elsewhere.
    """

    processor = HunyuanVideoProcessor
    originals = (MotifVideoAttnProcessor2_0,)
    embeddings: ClassVar = {"x_embedder": along(-2), "rope": along(-2)}

    def layers(self, transformer: Any) -> list[Any]:
        encoders = len(transformer.single_transformer_blocks) - transformer.num_decoder_layers
        singles = list(transformer.single_transformer_blocks)[:encoders]
        return [block.attn for block in (*transformer.transformer_blocks, *singles)]

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        config, image, mask = transformer.config, given.get("image_embeds"), given.get("encoder_attention_mask")
        images = 0 if image is None else image.shape[1]
        lengths = None if mask is None else tuple(images + length for length in valid_in_front(mask))
        # The decoder puts its copy of the video, which comes of the same embedding, beside the encoder's.
        grid = patch_grid(given["hidden_states"], config.patch_size_t, config.patch_size, config.patch_size)
        return Layout(images + given["encoder_hidden_states"].shape[1], lengths, grid)
