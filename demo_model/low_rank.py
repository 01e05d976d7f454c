"""Low ranks over all linear layers of a transformer: what a distillation trains, and the LoRA file that it becomes."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

PREFIX = "transformer."  # of the names in a LoRA file that is for diffusers' pipelines


class LowRank(nn.Linear):
    """A linear layer of frozen weights with ``b @ a`` added to them.

    The product is one of small matrices, added before the layer runs: the tokens go through one product, as without it.
    """

    def __init__(self, layer: nn.Linear, rank: int):
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.a = nn.Parameter(torch.randn(rank, layer.in_features, device=layer.weight.device) / layer.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank, device=layer.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + (self.b @ self.a).to(self.weight.dtype), self.bias)


def add_low_ranks(transformer: nn.Module, rank: int) -> dict[str, nn.Parameter]:
    """Freeze a transformer and put low ranks on each linear layer; return these by their names in a LoRA file.

    They change nothing at first.
    """
    transformer.requires_grad_(False)
    found: dict[str, nn.Parameter] = {}
    linear = [(name, layer) for name, layer in transformer.named_modules() if isinstance(layer, nn.Linear)]
    for name, layer in linear:
        added = LowRank(layer, rank)
        transformer.set_submodule(name, added)
        found |= {f"{PREFIX}{name}.lora_A.weight": added.a, f"{PREFIX}{name}.lora_B.weight": added.b}
    return found


def save_low_ranks(path: Path, weights: dict[str, Tensor], about: dict[str, str]) -> None:
    """Write a LoRA file in half precision, with what is to be known of it in its header."""
    part = path.with_suffix(".part")
    halves = {name: weight.detach().half().cpu().contiguous() for name, weight in weights.items()}
    save_file(halves, part, {"format": "pt", **about})
    part.replace(path)


def header_of(path: Path) -> dict[str, str]:
    """What the header of a LoRA file says of it."""
    with safe_open(path, framework="pt") as file:
        about: dict[str, str] = file.metadata()
        return about


def load_low_ranks(path: Path, transformer: nn.Module) -> None:
    """Put a LoRA file onto a transformer. Raises KeyError: it is for another one."""
    with safe_open(path, framework="pt") as file:
        rank = next(file.get_slice(name).get_shape()[0] for name in file.keys() if ".lora_A." in name)  # noqa: SIM118
    fill_low_ranks(path, add_low_ranks(transformer, rank))


@torch.no_grad()
def fill_low_ranks(path: Path, places: dict[str, nn.Parameter]) -> None:
    """Give low ranks the weights of a LoRA file. Raises KeyError: it has others."""
    with safe_open(path, framework="pt") as file:
        if names := set(file.keys()) ^ places.keys():
            raise KeyError(f"{path} is for another transformer: {min(names)}")
        for name, place in places.items():
            place.copy_(file.get_tensor(name))
