"""ChronoEdit: Wan's image-to-video, with a rotary embedding that skips in time."""

from diffusers.models.transformers.transformer_chronoedit import WanAttnProcessor

from adaspa.models.wan import Wan


class ChronoEdit(Wan):
    """`ChronoEditTransformer3DModel`."""

    originals = (WanAttnProcessor,)
