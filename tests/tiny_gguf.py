"""GGUF files of tiny transformers, with the names that their weights have in Wan's own code, or in diffusers."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import torch
from tiny_loras import wans_own

PLACES = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "proj_out": "head.head",
}


def named(name: str) -> str:
    """Wan's own name of a weight."""
    if name == "scale_shift_table":
        return "head.modulation"
    for ours, theirs in PLACES.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs)
    swapped = {"norm2": "norm3", "norm3": "norm2", "scale_shift_table": "modulation"}
    return wans_own(".".join(swapped.get(part, part) for part in name.split(".")))


def is_packed(name: str, shape: tuple[int, ...]) -> bool:
    """Tell whether a weight is one of the blocks' matrices, and Q8_0 can have its rows."""
    return "blocks." in name and name.endswith(".weight") and len(shape) == 2 and shape[1] % 32 == 0


def write(
    file: Path, transformer: torch.nn.Module, without: str = "", added: str = "", name_of: Callable[[str], str] = named
) -> Path:
    """Write the blocks' matrices in Q8_0 and all else in F32, but for one weight, and with another."""
    writer = gguf.GGUFWriter(file, "wan")
    tensors = {
        name_of(name): weight.detach().float().cpu().numpy() for name, weight in transformer.state_dict().items()
    }
    tensors.pop(without, None)
    if added:
        tensors[added] = np.zeros(32, np.float32)
    for name, tensor in tensors.items():
        if is_packed(name, tensor.shape):
            packed = gguf.quants.quantize(tensor, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
