"""Layers in e4m3 that round what they are given in one kernel: torchao and Inductor would read it twice.

Where an activation comes before such a layer, the kernel (`adaspa.ops.round_rows`) has it too, and the block's own only
hands on what it is given. Layers that take in what others do, as those of query, key and value, stay torchao's. So does
a layer that carries an adapter: the adapter takes in what is activated.
"""

from typing import Any

import torch
from adaspa import ops
from adaspa.ops.round_rows import Activation
from diffusers.models.activations import GELU, SwiGLU
from diffusers.models.attention import FeedForward
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoSingleTransformerBlock
from torch import Tensor, nn

OUT = ("to_out.0", "to_add_out")
"""Ends of the names that diffusers gives to what is behind attention."""


class Aside:
    """Input of an activation, held back for the layer behind: the block joins other columns in between."""

    value: Tensor | None = None


class Withheld(nn.Module):
    """An activation that only holds its input back, and returns no columns."""

    def __init__(self, aside: Aside) -> None:
        super().__init__()
        self.aside = aside

    def forward(self, x: Tensor) -> Tensor:
        self.aside.value = x
        return x[..., :0]


class RoundingLinear(nn.Module):
    """A linear layer with weights in e4m3 that activates and rounds what it is given.

    Args:
        layer: with torchao's weights in e4m3, one scale for each output.
        activation: of the input, or "none".
        aside: if given, where the activation's input is: its output then follows the input's columns.
    """

    def __init__(self, layer: nn.Linear, activation: Activation, aside: Aside | None = None) -> None:
        super().__init__()
        weight: Any = layer.weight
        self.weight = nn.Parameter(weight.qdata, requires_grad=False)
        self.scale = nn.Parameter(weight.scale, requires_grad=False)
        self.bias = layer.bias
        self.activation, self.aside = activation, aside

    def forward(self, x: Tensor) -> Tensor:
        if self.aside is None:
            value, before = x, None
        else:
            assert self.aside.value is not None, "the activation runs first"
            value, before = self.aside.value, x.flatten(0, -2)
            self.aside.value = None
        rows, scales = ops.round_rows(value.flatten(0, -2), self.activation, before)
        out = torch._scaled_mm(
            rows, self.weight.t(), scales, self.scale.t(), bias=self.bias, out_dtype=x.dtype, use_fast_accum=True
        )
        return out.unflatten(0, x.shape[:-1])


def round_alone(block: nn.Module, chosen: set[int]) -> None:
    """Have the layers of a block that alone take something in round it, joined with the activation before.

    Args:
        block: with torchao's weights.
        chosen: ids of the layers with weights in e4m3.
    """
    for name, module in list(block.named_modules()):
        if name.endswith(OUT) and id(module) in chosen:
            block.set_submodule(name, RoundingLinear(module, "none"))
        elif isinstance(module, FeedForward) and len(module.net) == 3 and id(module.net[2]) in chosen:
            activation = activation_of(module.net[0])
            if activation is not None:
                module.net[0], module.net[2] = module.net[0].proj, RoundingLinear(module.net[2], activation)
    if isinstance(block, HunyuanVideoSingleTransformerBlock) and id(block.proj_out) in chosen:
        aside = Aside()
        block.act_mlp, block.proj_out = Withheld(aside), RoundingLinear(block.proj_out, "gelu_tanh", aside)


def rounding_in(transformer: nn.Module) -> int:
    """Count the layers that round what they are given in one kernel."""
    return sum(isinstance(module, RoundingLinear) for module in transformer.modules())


def activation_of(module: nn.Module) -> Activation | None:
    """Name the activation of a layer of diffusers; None of one that no kernel has."""
    if type(module) is GELU and module.approximate == "tanh":
        return "gelu_tanh"
    return "swiglu" if type(module) is SwiGLU else None
