"""Weights of a LoRA file under the names of a transformer's modules.

diffusers' own loaders know the names that trainers use. What they leave out, or cannot place, they pass over with a
line in the log at most; here it is counted.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from peft.utils.other import get_pattern_key
from torch import Tensor

from adaspa_worker.hub import first_line

Sizes = Mapping[str, tuple[int, int]]
"""Inputs and outputs of each linear layer of a transformer, by its name."""
PARTS = {
    **dict.fromkeys((".lora_A.weight", ".lora_down.weight", ".lora.down.weight"), ".lora_A.weight"),
    **dict.fromkeys((".lora_B.weight", ".lora_up.weight", ".lora.up.weight"), ".lora_B.weight"),
    **{name: name for name in (".lora_B.bias", ".alpha", ".diff", ".diff_b")},
}
"""Endings of names in LoRA files, and what they become."""
ADDED = (".diff", ".diff_b")
"""Whole weights and biases beside the low ranks; diffusers knows some of them."""
OWN = "diffusion_model."
"""Prefix of names that a model's own code has."""
FLAT = ("lora_unet_", "lora_transformer_")
"""Prefixes of names that have underscores for their dots."""
METADATA = "lora_adapter_metadata"
"""Key of the file's header in which diffusers' training scripts write rank and alpha."""


class Unfit(Exception):
    """A file does not fit a model; the message says why."""


class Pair(NamedTuple):
    """Pair of matrices that a file adds to a linear layer: ``b @ a`` to its weight."""

    a: Tensor
    """[rank, inputs]."""
    b: Tensor
    """[outputs, rank], with the file's own scale in it."""
    bias: Tensor | None
    """[outputs]."""


class Fitted(NamedTuple):
    """A file as a transformer takes it."""

    pairs: dict[str, Pair]
    """Updates by the name of the linear layer."""
    lost: list[str]
    """Names of weights that have no place in the transformer, or that diffusers leaves out."""


def fit(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], pipeline: Any, sizes: Sizes) -> Fitted:
    """Place the weights of a file in a transformer.

    Args:
        tensors: of the file; those of low rank may be without data (on the device ``meta``).
        metadata: of the file's header.
        pipeline: the class of diffusers' pipeline.
        sizes: of the transformer.

    Raises:
        Unfit: it is no LoRA, for another model or of another size, or diffusers cannot read its names.
    """
    named = prefixed(scaled(parted(tensors), metadata), sizes)
    try:
        converted = pipeline.lora_state_dict(dict(named))
    except Exception as error:  # whatever a loader meets in names that it does not know
        why = "it is for another model family, or diffusers does not know the names of its weights"
        raise Unfit(f"{why} ({first_line(error)})") from error
    kept = {id(tensor) for tensor in converted.values()}
    lost = [key for key, tensor in named.items() if key.endswith(ADDED) and id(tensor) not in kept and not zero(tensor)]
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in converted.items():
        layer, end = split(key)
        layers[layer][end] = tensor
    pairs = {}
    for layer, parts in layers.items():
        name = layer.removeprefix("transformer.")
        if layer == name or name not in sizes or (".lora_A.weight" in parts) != (".lora_B.weight" in parts):
            lost += [layer + end for end in parts]
        else:
            pairs[name] = pair(name, parts, *sizes[name])
    if not pairs:
        raise Unfit(f"none of its {len(tensors)} weights fits the model: it is for another model family")
    return Fitted(pairs, lost)


def split(key: str) -> tuple[str, str]:
    """A weight's layer, and the end of its name; no end if it is none that a LoRA file has."""
    return next(((key.removesuffix(end), end) for end in PARTS if key.endswith(end)), (key, ""))


def parted(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Group the weights by layer and part. Raises Unfit: there are others than a LoRA's."""
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        layer, end = split(key)
        if not end:
            raise Unfit(f"{key} is not a LoRA weight; allowed: low ranks, alphas and differences (no DoRA, no LoKr)")
        layers[layer][PARTS[end]] = tensor
    return layers


def scaled(layers: Mapping[str, dict[str, Tensor]], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """Multiply the alphas into ``lora_B``, and return the weights by name without them."""
    told = {
        name.removeprefix("transformer."): value for name, value in json.loads(metadata.get(METADATA, "{}")).items()
    }
    if told.get("use_dora"):
        raise Unfit("it is a DoRA; allowed: a LoRA")
    alphas = told.get("alpha_pattern") or {}
    named: dict[str, Tensor] = {}
    for layer, parts in layers.items():
        a, b = parts.get(".lora_A.weight"), parts.get(".lora_B.weight")
        alpha = parts.pop(".alpha", None)
        if a is not None and b is not None:
            rank, name = a.shape[0], layer.removeprefix("transformer.")
            by_header = alphas.get(get_pattern_key(alphas.keys(), name), told.get("lora_alpha", rank))
            scale = by_header / (math.sqrt(rank) if told.get("use_rslora") else rank)
            parts[".lora_B.weight"] = b.float() * (scale if alpha is None else alpha.item() / rank)
        named |= {layer + end: tensor for end, tensor in parts.items()}
    return named


def prefixed(named: Mapping[str, Tensor], sizes: Sizes) -> dict[str, Tensor]:
    """Return the weights under names that diffusers' loaders know: with dots, and with a prefix."""
    layers = [split(key)[0] for key in named]
    for prefix in FLAT:
        if all(layer.startswith(prefix) for layer in layers):
            flat = {name.replace(".", "_"): name for name in sizes}
            plain = [layer.removeprefix(prefix) for layer in layers]
            layers = [flat.get(layer) or dotted(layer) for layer in plain]
    if any(layer.startswith("transformer.") for layer in layers):
        return dict(named)
    layers = [tencents(layer.removeprefix(OWN)) for layer in layers]
    prefix = "transformer." if all(layer in sizes for layer in layers) else OWN
    return {
        f"{prefix}{layer}{split(key)[1]}": tensor for (key, tensor), layer in zip(named.items(), layers, strict=True)
    }


def dotted(layer: str) -> str:
    """A name of Wan's or HunyuanVideo's own code out of one with underscores for its dots."""
    name = re.sub(r"_(\d+)(_|$)", lambda number: f".{number[1]}{'.' if number[2] else ''}", layer)
    name = re.sub(r"(self|cross)_attn_(?=(?:q|k|v|o|k_img|v_img|norm_\w+)$)", r"\1_attn.", name)
    return re.sub(
        r"(mlp)_(fc\d)|(mod|modulation)_(lin(?:ear)?)|(head)_(head)",
        lambda two: ".".join(filter(None, two.groups())),
        name,
    )


def tencents(layer: str) -> str:
    """Return the name that HunyuanVideo's own code has for a layer that ComfyUI names as Flux does."""
    if not layer.startswith(("double_blocks.", "single_blocks.")):
        return layer
    layer = re.sub(r"_attn\.(qkv|proj)$", r"_attn_\1", layer)
    layer = re.sub(r"_mlp\.([02])$", lambda place: "_mlp.fc1" if place[1] == "0" else "_mlp.fc2", layer)
    return re.sub(r"\.lin$", ".linear", layer)


def pair(name: str, parts: Mapping[str, Tensor], inputs: int, outputs: int) -> Pair:
    """Read what a file adds to a layer. Raises Unfit if it has another size."""
    a, b = parts.get(".lora_A.weight"), parts.get(".lora_B.weight")
    bias = parts.get(".lora_B.bias")
    if a is None or b is None:  # a bias alone
        assert bias is not None
        a, b = bias.new_zeros(0, inputs), bias.new_zeros(outputs, 0)
    if a.shape[1:] != (inputs,) or b.shape[:1] != (outputs,) or a.shape[0] != b.shape[1]:
        theirs, ours = f"{a.shape[1]} to {b.shape[0]}", f"{inputs} to {outputs}"
        raise Unfit(f"{name} maps {theirs} in the file but {ours} in the model: it is for a model of another size")
    if bias is not None and bias.shape != (outputs,):
        raise Unfit(
            f"{name} has a bias of {len(bias)} in the file but {outputs} in the model: it is for another model size"
        )
    return Pair(a, b, bias)


def zero(tensor: Tensor) -> bool:
    """Tell whether it changes nothing."""
    return not tensor.is_meta and not torch.any(tensor)
