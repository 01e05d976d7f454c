"""Models and VAEs of `benchmarks.models.memory`, each with the sizes and frames that it is measured at."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from benchmarks.models.block_models import BLOCK_MODELS
from benchmarks.models.full_models import MODELS, FullModel, Inputs

KEPT = ("bfloat16", "float8_e4m3fn", "int8")
"""Types that weights are kept in; those but the first for the smallest size alone."""
SIZES = {
    "832x480, 49 frames": (1, 16, 13, 60, 104),
    "832x480, 81 frames": (1, 16, 21, 60, 104),
    "1280x720, 81 frames": (1, 16, 21, 90, 160),
}
"""Shapes of latents, the smallest first."""
Sizes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Transformer:
    """A transformer, the shapes of its latents by size and frames, and the types that its weights are kept in."""

    model: FullModel
    sizes: Sizes = field(default_factory=lambda: SIZES)
    kept: tuple[str, ...] = KEPT

    def quick(self) -> "Transformer":
        """A small one: to try the benchmark itself."""
        small = self.model.quick()
        return replace(self, model=small, sizes={"128x128, 5 frames": small.latents})


@dataclass(frozen=True)
class Vae:
    """A VAE.

    Args:
        name: its class.
        dtype: the type that a worker has it in.
        small: what makes a small one.
        sizes: shapes of latents by size and frames.
        quick_latents: those of the small one.
        whole: whether it is measured without tiles, too.
    """

    name: str
    dtype: torch.dtype
    small: Mapping[str, Any]
    sizes: Sizes = field(default_factory=lambda: SIZES)
    quick_latents: tuple[int, ...] = (1, 16, 2, 16, 16)
    whole: bool = True


def _mochi_inputs(model: FullModel, device: torch.device, dtype: torch.dtype) -> Inputs:
    """All text tokens are valid, as with the longest of prompts."""
    batch = model.latents[0]
    return {
        "hidden_states": torch.randn(model.latents, device=device, dtype=dtype),
        "encoder_hidden_states": torch.randn(batch, *model.text, device=device, dtype=dtype),
        "encoder_attention_mask": torch.ones(batch, model.text[0], device=device, dtype=torch.bool),
    }


_MOCHI = FullModel(
    "mochi-10b-480p",
    "MochiTransformer3DModel",
    {"num_layers": 48},
    (1, 12, 28, 60, 106),
    (256, 4096),
    _mochi_inputs,
    1,
    (
        {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 32, "text_embed_dim": 32}
        | {"pooled_projection_dim": 32, "time_embed_dim": 8, "max_sequence_length": 8},
        (1, 12, 3, 16, 16),
    ),
)


def _ltx_inputs(model: FullModel, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Both guidance branches as one batch, all text tokens valid."""
    batch, channels, frames, rows, columns = model.latents
    return {
        "hidden_states": torch.randn(batch, frames * rows * columns, channels, device=device, dtype=dtype),
        "encoder_hidden_states": torch.randn(batch, *model.text, device=device, dtype=dtype),
        "encoder_attention_mask": torch.ones(batch, model.text[0], device=device, dtype=torch.long),
        "num_frames": frames,
        "height": rows,
        "width": columns,
    }


_LTX = FullModel(
    "ltx-video-2b",
    "LTXVideoTransformer3DModel",
    {},
    (2, 128, 13, 16, 24),
    (128, 4096),
    _ltx_inputs,
    1,
    (
        {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 32, "cross_attention_dim": 64}
        | {"caption_channels": 32},
        (2, 128, 2, 12, 12),
    ),
)
LTX_SIZES = {
    "768x512, 97 frames": (2, 128, 13, 16, 24),
    "768x512, 161 frames": (2, 128, 21, 16, 24),
    "1216x704, 161 frames": (2, 128, 21, 22, 38),
}
MOCHI_SIZES = {
    "848x480, 49 frames": (1, 12, 9, 60, 106),
    "848x480, 85 frames": (1, 12, 15, 60, 106),
    "848x480, 163 frames": (1, 12, 28, 60, 106),
}
HUNYUAN_VIDEO15_SIZES = {
    "832x480, 49 frames": (1, 65, 13, 30, 52),
    "1280x720, 49 frames": (1, 65, 13, 45, 80),
    "1280x720, 81 frames": (1, 65, 21, 45, 80),
}
COGVIDEOX15_SIZES = {
    "720x480, 49 frames": (2, 14, 16, 60, 90),
    "720x480, 81 frames": (2, 22, 16, 60, 90),
    "1360x768, 81 frames": (2, 22, 16, 96, 170),
}
"""Both guidance branches together, as the pipeline has them."""
TRANSFORMERS = {
    each.model.name: each
    for each in (
        Transformer(MODELS["wan2.1-1.3b-480p-81f"]),
        Transformer(MODELS["wan2.1-14b-720p-81f"]),
        Transformer(MODELS["hunyuan-video-13b-720p-129f"]),
        Transformer(BLOCK_MODELS["hunyuan-video1.5-8b-i2v-720p-121f"], HUNYUAN_VIDEO15_SIZES, KEPT[:1]),
        Transformer(_MOCHI, MOCHI_SIZES, KEPT[:1]),
        Transformer(_LTX, LTX_SIZES, KEPT[:1]),
        Transformer(MODELS["cogvideox1.5-5b-720p-81f"], COGVIDEOX15_SIZES, KEPT[:1]),
    )
}
CACHED = (MODELS["wan2.1-14b-720p-81f"].few_blocks(4), "832x480, 81 frames")
"""Model and size that step caches are measured with: what they hold does not depend on the number of blocks."""
CACHES: dict[str, dict[str, Any]] = {
    "first_block": {"threshold": 1e-9},
    "mag": {"threshold": 1e-9, "ratios": [1.0, 1.0]},
    "sea": {"threshold": 1e-9},
    "taylor_seer": {"interval": 2},
}
"""Settings of step caches with which none but TaylorSeer, which predicts every other step, reuses anything."""
_BLOCKS = (8, 8, 8, 8)
VAES = {
    each.name: each
    for each in (
        Vae("AutoencoderKLWan", torch.float32, {"base_dim": 4, "num_res_blocks": 1}),
        Vae(
            "AutoencoderKLHunyuanVideo",
            torch.bfloat16,
            {"block_out_channels": _BLOCKS, "layers_per_block": 1, "norm_num_groups": 8},
        ),
        Vae(
            "AutoencoderKLHunyuanVideo15",
            torch.bfloat16,
            {"block_out_channels": (*_BLOCKS, 8), "layers_per_block": 1, "latent_channels": 4},
            {size: (1, 32, *latents[2:]) for size, latents in HUNYUAN_VIDEO15_SIZES.items()},
            (1, 4, 2, 4, 4),
            whole=False,  # its mask of all places by all places is filled row by row, which takes minutes
        ),
        Vae(
            "AutoencoderKLMochi",
            torch.bfloat16,
            {"encoder_block_out_channels": (32,) * 4, "decoder_block_out_channels": (32,) * 4}
            | {"layers_per_block": (1,) * 5},
            MOCHI_SIZES,
            (1, 12, 2, 8, 8),
        ),
        Vae(
            "AutoencoderKLLTXVideo",
            torch.bfloat16,
            {"block_out_channels": _BLOCKS, "decoder_block_out_channels": _BLOCKS}
            | {"layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 5},
            {size: (1, *latents[1:]) for size, latents in LTX_SIZES.items()},
            (1, 128, 2, 4, 4),
        ),
    )
}
