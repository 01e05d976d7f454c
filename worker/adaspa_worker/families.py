"""What models of each family can make, by their configurations alone: importing a pipeline takes many seconds."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """What a model can make.

    Args:
        side: height and width are multiples of it, in pixels.
        every: the number of frames less one is a multiple of it.
        width, height, frames: at most.
        only_size: the one that there is, as WIDTHxHEIGHT.
        text: the one length that encoded texts may have, in tokens.
        steps: the fewest denoising steps.
        guided: whether a guidance scale has an effect.
    """

    side: int
    every: int
    width: float = math.inf
    height: float = math.inf
    frames: float = math.inf
    only_size: str | None = None
    text: int | None = None
    steps: int = 1
    guided: bool = True


@dataclass(frozen=True)
class Family:
    """A model family.

    Args:
        pipeline: its class of diffusers.
        transformer: likewise.
        limits: of a model, by the configurations of its VAE and its transformer.
        compiles: whether diffusers knows which blocks of its transformer to compile.
    """

    pipeline: str
    transformer: str
    limits: Callable[[Config, Config], Limits]
    compiles: bool = True


def wan(vae: Config, transformer: Config) -> Limits:
    patch_frames, patch, _ = transformer["patch_size"]
    side, every = vae.get("scale_factor_spatial", 8) * patch, vae.get("scale_factor_temporal", 4)
    places = transformer["rope_max_seq_len"]  # of the rotary positions, along each axis
    return Limits(
        side, every, width=places * side, height=places * side, frames=(places * patch_frames - 1) * every + 1
    )


def hunyuan_video(vae: Config, transformer: Config) -> Limits:
    side = vae["spatial_compression_ratio"] * transformer["patch_size"]
    return Limits(side, vae["temporal_compression_ratio"], guided=transformer.get("guidance_embeds", True))


def hunyuan_video15(vae: Config, transformer: Config) -> Limits:
    return Limits(vae["spatial_compression_ratio"] * transformer["patch_size"], vae["temporal_compression_ratio"])


def cogvideox(vae: Config, transformer: Config) -> Limits:
    pixels = 2 ** (len(vae["block_out_channels"]) - 1)
    side = pixels * transformer["patch_size"]
    # The VAE decodes latent frames in pairs, and gives one frame for the first only where it has no partner.
    every = 2 * int(vae["temporal_compression_ratio"])
    width, height = (pixels * transformer[name] for name in ("sample_width", "sample_height"))
    text = transformer["max_text_seq_length"]
    if transformer.get("use_learned_positional_embeddings"):
        return Limits(side, every, only_size=f"{width}x{height}", text=text)
    if transformer.get("patch_size_t"):  # CogVideoX 1.5 has its positions cut out of those that it was trained with
        return Limits(side, every, width=width, height=height)
    return Limits(side, every, text=None if transformer.get("use_rotary_positional_embeddings") else text)


def ltx(vae: Config, transformer: Config) -> Limits:
    halved = 2 ** sum(vae["spatio_temporal_scaling"])
    side = vae.get("spatial_compression_ratio") or vae["patch_size"] * halved
    every = vae.get("temporal_compression_ratio") or vae["patch_size_t"] * halved
    return Limits(side * transformer["patch_size"], every * transformer["patch_size_t"])


def mochi(vae: Config, transformer: Config) -> Limits:
    # The pipeline has the first two written down, and its schedule divides by half the steps, rounded down.
    return Limits(side=16, every=6, steps=2)


FAMILIES = {
    "wan": Family("WanPipeline", "WanTransformer3DModel", wan),
    "hunyuan_video": Family("HunyuanVideoPipeline", "HunyuanVideoTransformer3DModel", hunyuan_video),
    "hunyuan_video15": Family("HunyuanVideo15Pipeline", "HunyuanVideo15Transformer3DModel", hunyuan_video15),
    "cogvideox": Family("CogVideoXPipeline", "CogVideoXTransformer3DModel", cogvideox, compiles=False),
    "ltx": Family("LTXPipeline", "LTXVideoTransformer3DModel", ltx),
    "mochi": Family("MochiPipeline", "MochiTransformer3DModel", mochi, compiles=False),
}
