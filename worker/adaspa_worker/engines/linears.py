"""Linear layers of a transformer's blocks that multiply in e4m3: weights and activations, by torchao.

Each output of a weight has a scale, and so has each token of what goes in. The layers that few tokens pass stay as they
are: embedders, the modulation by the timestep, the output projection.
"""

from functools import cache
from typing import Any

import torch
from adaspa.ops.e4m3 import LEAST_SCALE, MOST
from adaspa.patch import family_of
from torch import nn

from adaspa_worker.engines.rounding import round_alone
from adaspa_worker.source import ModelUnavailable

SINCE = (8, 9)
"""Compute capability of the first NVIDIA GPUs that multiply in e4m3: Ada, then Hopper."""
MULTIPLE = 16
"""Inputs and outputs of such a product come in multiples of it."""
MODULATION = ("norm", "adaln")
"""Beginnings of the names that diffusers gives to what makes shifts, scales and gates of the timestep."""
ADAPTER = "lora_"
"""Beginning of the names of PEFT's own layers."""


def blocks_of(transformer: nn.Module) -> list[nn.Module]:
    """List the blocks: the modules that hold the self-attention layers."""
    layers = {id(layer) for layer in family_of(transformer).layers(transformer)}
    return [module for module in transformer.modules() if any(id(child) in layers for child in module.children())]


def in_blocks(transformer: nn.Module) -> dict[str, nn.Linear]:
    """List the linear layers of the blocks that see every token, by their names within the block's name."""
    blocks = {id(block) for block in blocks_of(transformer)}
    return {
        f"{place}.{name}": layer
        for place, block in transformer.named_modules()
        if id(block) in blocks
        for name, layer in block.named_modules()
        if isinstance(layer, nn.Linear) and _sees_tokens(name) and _fits(layer)
    }


def compute_in_float8(transformer: Any, device: torch.device) -> None:
    """Have these layers multiply in e4m3. The transformer is then on the device.

    Raises:
        ModelUnavailable: the device does not multiply in e4m3.
    """
    check_device(device)
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig as Float8  # noqa: PLC0415  optional
    from torchao.quantization import PerRow, quantize_  # noqa: PLC0415  optional

    chosen = {id(layer) for layer in in_blocks(transformer).values()}
    # torchao would set Inductor and the precision of all float32 products for the whole process.
    # Without a least value, it would make a token of zeros one of NaN.
    config = Float8(granularity=PerRow(), activation_value_lb=LEAST_SCALE * MOST, set_inductor_config=False)
    quantize_(transformer, config, lambda layer, _: id(layer) in chosen, device)
    for block in blocks_of(transformer):
        round_alone(block, chosen)


@cache
def compile_options() -> dict[str, Any]:
    """Return options of ``torch.compile`` for such layers, the same ones each time: others would compile again."""
    from torch._inductor import lowering  # noqa: PLC0415  a second, for compiled models alone

    from adaspa_worker.engines.merging import MergeEqual  # noqa: PLC0415  as above

    # What a product is given through a view, Inductor would write once for each product.
    lowering.add_needs_realized_inputs([torch.ops.aten._scaled_mm])
    return {"post_grad_custom_pre_pass": MergeEqual()}


def check_device(device: torch.device) -> None:
    """Raise ModelUnavailable for a device that does not multiply in e4m3."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < SINCE:
        what = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
        raise ModelUnavailable(
            f"memory.quantization: float8 needs a GPU that multiplies in e4m3 (compute capability 8.9 or higher), "
            f"this is {what}; allowed: null or int8"
        )


def _sees_tokens(name: str) -> bool:
    return not any(part.startswith((*MODULATION, ADAPTER)) for part in name.split("."))


def _fits(layer: nn.Linear) -> bool:
    return layer.in_features % MULTIPLE == 0 and layer.out_features % MULTIPLE == 0
