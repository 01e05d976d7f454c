"""Published video transformers at their full size, with random weights, and inputs as their pipelines give them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from inspect import signature
from typing import Any

import torch

Inputs = dict[str, Any]
MakeInputs = Callable[["FullModel", torch.device, torch.dtype], Inputs]


@dataclass(frozen=True)
class FullModel:
    """A transformer and a size of video.

    Args:
        transformer: its class in diffusers.
        config: what differs from the defaults of that class, as published.
        latents: shape of ``hidden_states``.
        text: tokens and channels of the prompt embeddings.
        make_inputs: the arguments of a forward but for the timestep.
        calls: forwards in a denoising step, one for each guidance branch that the pipeline calls by itself.
        small: config and latents of a model of the same structure that runs on a CPU in a second.
        frame_axis: which of the latents' axes counts the frames.
    """

    name: str
    transformer: str
    config: dict[str, Any]
    latents: tuple[int, ...]
    text: tuple[int, int]
    make_inputs: MakeInputs
    calls: int
    small: tuple[dict[str, Any], tuple[int, ...]]
    frame_axis: int = 2

    def quick(self) -> "FullModel":
        """The small model: to try the benchmark itself."""
        config, latents = self.small
        return replace(self, config={**self.config, **config}, latents=latents, text=(8, 32))

    def one_frame(self) -> "FullModel":
        """The same model for a video of one frame of tokens: to compile the kernels."""
        before, after = self.latents[: self.frame_axis], self.latents[self.frame_axis + 1 :]
        return replace(self, latents=(*before, self.config.get("patch_size_t", 1), *after))

    def few_blocks(self, count: int) -> "FullModel":
        """The same model with so few blocks of each kind."""
        known = signature(getattr(import_module("diffusers"), self.transformer)).parameters
        fewer = {name: count for name in ("num_layers", "num_single_layers") if name in known}
        return replace(self, config={**self.config, **fewer})

    def build(self, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
        """The transformer with PyTorch's usual random initialisation, made on the device itself.

        What diffusers keeps in fp32 when it loads the model in ``dtype`` stays so here.
        """
        cls = getattr(import_module("diffusers"), self.transformer)
        with torch.device(device):
            model: torch.nn.Module = cls(**self.config)
        kept = set(cls._keep_in_fp32_modules or ())
        for name, parameter in model.named_parameters():
            if kept.isdisjoint(name.split(".")):
                parameter.data = parameter.data.to(dtype)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the fp32 weights
        return model.eval().requires_grad_(False)

    def inputs(self, device: torch.device, dtype: torch.dtype) -> Inputs:
        """The arguments of one forward but for the timestep, from a fixed seed."""
        torch.manual_seed(0)
        return self.make_inputs(self, device, dtype)


def _wan_inputs(model: FullModel, device: torch.device, dtype: torch.dtype) -> Inputs:
    return {
        "hidden_states": torch.randn(model.latents, device=device, dtype=dtype),
        "encoder_hidden_states": torch.randn(model.latents[0], *model.text, device=device, dtype=dtype),
    }


def _hunyuan_inputs(model: FullModel, device: torch.device, dtype: torch.dtype) -> Inputs:
    """All text tokens are valid, as with the longest of prompts."""
    batch = model.latents[0]
    return {
        **_wan_inputs(model, device, dtype),
        "encoder_attention_mask": torch.ones(batch, model.text[0], device=device, dtype=torch.long),
        "pooled_projections": torch.randn(batch, 768, device=device, dtype=dtype),
        "guidance": torch.full((batch,), 6000.0, device=device, dtype=dtype),
    }


def _cogvideox_inputs(model: FullModel, device: torch.device, dtype: torch.dtype) -> Inputs:
    frames, _, height, width = model.latents[1:]
    rotary = import_module("diffusers.models.embeddings").get_3d_rotary_pos_embed(
        embed_dim=64,
        crops_coords=None,
        grid_size=(height // 2, width // 2),
        temporal_size=frames // 2,
        grid_type="slice",
        max_size=(height // 2, width // 2),
        device=device,
    )
    return {**_wan_inputs(model, device, dtype), "image_rotary_emb": rotary}


def _wan(name: str, config: dict[str, Any], latents: tuple[int, ...]) -> FullModel:
    small = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 32, "ffn_dim": 64, "text_dim": 32}
    return FullModel(
        name, "WanTransformer3DModel", config, latents, (512, 4096), _wan_inputs, 2, (small, (1, 16, 3, 24, 24))
    )


MODELS = {
    model.name: model
    for model in (
        FullModel(
            "hunyuan-video-13b-720p-129f",
            "HunyuanVideoTransformer3DModel",
            {},
            (1, 16, 33, 90, 160),
            (256, 4096),
            _hunyuan_inputs,
            1,
            (
                {
                    "num_layers": 1,
                    "num_single_layers": 2,
                    "num_refiner_layers": 1,
                    "num_attention_heads": 2,
                    "text_embed_dim": 32,
                },
                (1, 16, 3, 24, 24),
            ),
        ),
        _wan("wan2.1-14b-720p-81f", {}, (1, 16, 21, 90, 160)),
        _wan(
            "wan2.1-1.3b-480p-81f", {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}, (1, 16, 21, 60, 104)
        ),
        FullModel(
            "cogvideox1.5-5b-720p-81f",
            "CogVideoXTransformer3DModel",
            {
                "num_attention_heads": 48,
                "num_layers": 42,
                "patch_size_t": 2,
                "patch_bias": False,
                "use_rotary_positional_embeddings": True,
                "max_text_seq_length": 224,
            },
            (2, 22, 16, 96, 170),
            (224, 4096),
            _cogvideox_inputs,
            1,
            ({"num_layers": 2, "num_attention_heads": 2, "text_embed_dim": 32}, (2, 4, 16, 24, 24)),
            frame_axis=1,
        ),
    )
}
