"""LoRA files of random weights for the tiny models, as trainers write them, and catalog entries for them."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

WAN = [
    *(f"blocks.{i}.attn{n}.to_{c}" for i in range(2) for n in (1, 2) for c in ("q", "k", "v", "out.0")),
    *(f"blocks.{i}.ffn.net.{c}" for i in range(2) for c in ("0.proj", "2")),
]
"""The layers of the tiny Wan that trainers change."""
LTX = [f"transformer_blocks.{i}.attn1.to_{c}" for i in range(2) for c in ("q", "k", "v", "out.0")]
HUNYUAN = [
    *(f"transformer_blocks.0.attn.to_{c}" for c in ("q", "k", "v", "out.0")),
    *(f"transformer_blocks.0.attn.{c}" for c in ("add_q_proj", "add_k_proj", "add_v_proj")),
    *(f"transformer_blocks.0.{part}.net.{c}" for part in ("ff", "ff_context") for c in ("0.proj", "2")),
    "single_transformer_blocks.0.proj_out",
    "transformer_blocks.0.norm1.linear",
    "single_transformer_blocks.0.norm.linear",
]
HUNYUANS_OWN = {
    "single_transformer_blocks": "single_blocks",
    "transformer_blocks": "double_blocks",
    "attn.to_out.0": "img_attn_proj",
    "ff_context.net.0.proj": "txt_mlp.fc1",
    "ff_context.net.2": "txt_mlp.fc2",
    "ff.net.0.proj": "img_mlp.fc1",
    "ff.net.2": "img_mlp.fc2",
    "proj_out": "linear2",
    "norm1.linear": "img_mod.linear",
    "norm.linear": "modulation.linear",
}
HUNYUANS_STACKED = {
    "img_attn_qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
    "txt_attn_qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
}
COMFYS = {
    "_attn_qkv": "_attn.qkv",
    "_attn_proj": "_attn.proj",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
    "img_mod.linear": "img_mod.lin",
    "modulation.linear": "modulation.lin",
}
"""What ComfyUI calls layers of HunyuanVideo, which it has in a class made for Flux."""
WANS_OWN = {"attn1": "self_attn", "attn2": "cross_attn", "to_out.0": "o", "to_": "", "net.0.proj": "0", "net.2": "2"}
"""What Wan's own code calls parts of layers."""
Low = dict[str, tuple[Tensor, Tensor]]
"""The two low ranks of each layer, by the layer's name in diffusers."""


def low_ranks(transformer: torch.nn.Module, layers: Iterable[str], rank: int = 4, seed: int = 0) -> Low:
    """Random low ranks that a clip shows."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for name in layers:
        outputs, inputs = transformer.get_submodule(name).weight.shape  # type: ignore[union-attr,misc]
        a, b = (torch.randn(*shape, generator=generator) for shape in ((rank, inputs), (outputs, rank)))
        found[name] = a / inputs**0.5, b / rank**0.5
    return found


def wans_own(name: str) -> str:
    for ours, theirs in WANS_OWN.items():
        name = name.replace(ours, theirs)
    return name


def diffusers(low: Low) -> dict[str, Tensor]:
    return {
        f"transformer.{name}.lora_{part}.weight": tensor
        for name, pair in low.items()
        for part, tensor in zip("AB", pair, strict=True)
    }


def kohya(low: Low, named: Callable[[str], str], prefix: str = "") -> dict[str, Tensor]:
    """With an alpha of half the rank, and ``b`` twice as large for it."""
    found = {}
    for name, (a, b) in low.items():
        layer = prefix + named(name)
        found |= {f"{layer}.lora_down.weight": a, f"{layer}.lora_up.weight": 2 * b}
        found[f"{layer}.alpha"] = torch.tensor(len(a) / 2)
    return found


def flat(name: str) -> str:
    return "lora_unet_" + name.replace(".", "_")


def as_diffusers_trains(low: Low) -> tuple[dict[str, Tensor], dict[str, str]]:
    """With rank and alpha in the header."""
    rank = len(next(iter(low.values()))[0])
    header = {"transformer.r": rank, "transformer.lora_alpha": rank // 2, "transformer.lora_bias": False}
    twice = {name: (a, 2 * b) for name, (a, b) in low.items()}
    return diffusers(twice), {"lora_adapter_metadata": json.dumps(header)}


def wan_files(low: Low) -> dict[str, tuple[dict[str, Tensor], dict[str, str]]]:
    """The same adapter for Wan as each trainer writes it: weights, and the file's header."""
    return {
        "diffusers": (diffusers(low), {}),
        "diffusers-trained": as_diffusers_trains(low),
        "musubi-tuner": (kohya(low, lambda name: flat(wans_own(name))), {}),
        "kohya": (kohya(low, flat), {}),
        "comfyui": (kohya(low, wans_own, "diffusion_model."), {}),
        "comfyui-peft": (
            {
                f"diffusion_model.{wans_own(name)}.lora_{part}.weight": tensor
                for name, pair in low.items()
                for part, tensor in zip("AB", pair, strict=True)
            },
            {},
        ),
    }


def plain_files(low: Low) -> dict[str, tuple[dict[str, Tensor], dict[str, str]]]:
    """The same adapter as each trainer writes it for a model whose own code has the layers' names of diffusers."""
    without = {name.removeprefix("transformer."): tensor for name, tensor in diffusers(low).items()}
    return {
        "diffusers": (diffusers(low), {}),
        "diffusers-trained": as_diffusers_trains(low),
        "kohya": (kohya(low, flat), {}),
        "comfyui": (kohya(low, str, "diffusion_model."), {}),
        "comfyui-peft": ({f"diffusion_model.{name}": tensor for name, tensor in without.items()}, {}),
        "without a prefix": (without, {}),
    }


def hunyuan_files(low: Low) -> dict[str, tuple[dict[str, Tensor], dict[str, str]]]:
    """The same for HunyuanVideo, whose own code has queries, keys and values in one layer."""
    block, own = "transformer_blocks.0.", dict(low)
    for name, layers in HUNYUANS_STACKED.items():
        pairs = [own.pop(block + layer) for layer in layers]
        low |= {block + layer: (pairs[0][0], b) for layer, (_, b) in zip(layers, pairs, strict=True)}
        own[f"double_blocks.0.{name}"] = pairs[0][0], torch.cat([b for _, b in pairs])

    def named(layer: str, *names: dict[str, str]) -> str:
        for ours, theirs in [pair for each in (HUNYUANS_OWN, *names) for pair in each.items()]:
            layer = layer.replace(ours, theirs)
        return layer

    peft = diffusers({named(name): pair for name, pair in own.items()})
    return {
        "diffusers": (diffusers(low), {}),
        "musubi-tuner": (kohya(own, lambda layer: flat(named(layer))), {}),
        "diffusion-pipe": (peft, {}),
        "comfyui": (kohya(own, lambda layer: named(layer, COMFYS), "diffusion_model."), {}),
        "comfyui-flat": (kohya(own, lambda layer: flat(named(layer, COMFYS))), {}),
        "for-comfyui": (kohya(own, named, "diffusion_model."), {}),
    }


def entry(
    path: Path, tensors: dict[str, Tensor], header: dict[str, str] | None = None, **changes: Any
) -> dict[str, Any]:
    """Write a file; returns what the catalog has of it."""
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, header or None)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"name": path.stem, "source": str(path), "sha256": sha256} | changes
