"""GPU memory of LoRA adapters, from the headers of their files."""

from collections.abc import Sequence
from typing import Any

import torch
from adaspa_api.loras import LoraUse
from adaspa_jobs.catalog import ModelSpec

from adaspa_worker.loras import files as lora_files
from adaspa_worker.loras.keys import Pair
from adaspa_worker.loras.slots import EXPERTS, fitted, has_bias, highest_rank, insert, sizes_of


class LoraMemory:
    """Memory of a catalog entry's adapters, whose files have been checked.

    Args:
        spec: the entry.
        pipeline: the class of diffusers' pipeline.
        transformer: one of the pipeline's, which may be on meta tensors.
        count: transformers of the pipeline.

    Raises:
        ModelUnavailable: naming the adapter that cannot be taken, and why.
    """

    def __init__(self, spec: ModelSpec, pipeline: Any, transformer: torch.nn.Module, count: int) -> None:
        files = {lora.name: lora_files.local(spec, lora) for lora in spec.loras}
        self._spec, self._sizes, self._count = spec, sizes_of(transformer), count
        self._pairs = {name: fit.pairs for name, fit in fitted(spec, files, pipeline, self._sizes).items()}

    def weights(self, uses: Sequence[LoraUse]) -> list[int]:
        """Count the weights that the slots of each transformer have in a job with these adapters."""
        names = {use.name for use in uses if use.scale}
        return [self._at(place, names) for place in range(self._count)]

    def heaviest(self) -> list[LoraUse]:
        """Return the largest adapters, as many as a request may have."""
        largest = sorted(self._pairs, key=lambda name: self._size(self._pairs[name]))
        return [LoraUse(name=name, scale=1.0) for name in largest[-self._spec.max_loras :]]

    def insert_into(self, transformer: Any) -> None:
        """Put slots into the layers that a transformer, maybe a shorter one, has of those that any adapter changes."""
        layers = dict.fromkeys(name for pairs in self._pairs.values() for name in pairs)
        there = dict(transformer.named_modules())
        insert(transformer, filter(there.__contains__, layers), self._sizes, with_bias=has_bias(self._pairs.values()))

    def _at(self, place: int, names: set[str]) -> int:
        own = {lora.name: self._pairs[lora.name] for lora in self._spec.loras if place in EXPERTS[lora.expert]}
        if not self._spec.compile:
            return sum(self._size(pairs) for name, pairs in own.items() if name in names)
        layers = {layer for pairs in own.values() for layer in pairs}
        return highest_rank(own.values(), self._spec.max_loras) * sum(sum(self._sizes[layer]) for layer in layers)

    def _size(self, pairs: dict[str, Pair]) -> int:
        return sum(len(pair.a) * sum(self._sizes[layer]) for layer, pair in pairs.items())
