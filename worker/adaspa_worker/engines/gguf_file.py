"""A transformer whose weights are in a GGUF file, with the configuration that the model's folder has of it."""

from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers import GGUFQuantizationConfig
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from diffusers.models.model_loading_utils import load_gguf_checkpoint

from adaspa_worker.families import read
from adaspa_worker.source import ModelUnavailable

SHOWN = 3
"""Number of weight names to list in an error."""


def readable(transformer: str) -> bool:
    """Tell whether diffusers can read this transformer's weights from one file with its authors' own names."""
    return transformer in SINGLE_FILE_LOADABLE_CLASSES


def load(file: Path, folder: Path, dtype: torch.dtype) -> Any:
    """Load a transformer.

    Args:
        file: in GGUF; weights may have the names of diffusers, or those of the model's own code.
        folder: of diffusers, with the transformer's configuration.
        dtype: that it computes in, and of the weights that are not quantised.

    Raises:
        ModelUnavailable: the file is not of this transformer, whole and alone.
    """
    config = read(folder / "config.json")
    kind = getattr(diffusers, config["_class_name"])
    with init_empty_weights():
        wanted = kind.from_config(config).state_dict().keys()
    found = load_gguf_checkpoint(str(file))
    if found.keys() != wanted:
        found = SINGLE_FILE_LOADABLE_CLASSES[kind.__name__]["checkpoint_mapping_fn"](config=config, checkpoint=found)
    for names, why in (wanted - found.keys(), "lacks weights of"), (found.keys() - wanted, "has weights unknown to"):
        if names:
            some = ", ".join(sorted(names)[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
            raise ModelUnavailable(f"{file}: {why} the model's transformer ({some})")
    return kind.from_single_file(
        found,
        config=str(folder),
        quantization_config=GGUFQuantizationConfig(compute_dtype=dtype),
        dtype=dtype,
        local_files_only=True,
    )
