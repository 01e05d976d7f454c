"""LoRA adapters on a loaded pipeline: one slot of PEFT's in each layer that any of the catalog's adapters changes.

The adapters of a job go into the slot side by side, with their scales in them: ``b1 @ a1 + b2 @ a2`` is one product of
their stacked ranks. A job without any runs the layers alone, as if there were no slot, bit for bit.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from adaspa_api.loras import LoraUse
from adaspa_jobs.catalog import Lora, ModelSpec
from peft.tuners.lora import Linear as Slot
from safetensors import safe_open
from safetensors.torch import load
from torch import Tensor

from adaspa_worker.loras import files as lora_files
from adaspa_worker.loras.keys import ADDED, Fitted, Pair, Sizes, Unfit, fit

log = logging.getLogger(__name__)

SLOT = "job"
"""Name of PEFT's adapter."""
SMALL_BYTES = 2**20
"""A whole weight or bias of a file is read to see whether it is zero, if it is no larger."""
EXPERTS = {"both": (0, 1), "first": (0,), "second": (1,)}


class Loras:
    """Adapters of a catalog entry.

    Args:
        spec: the entry.
        pipeline: the class of diffusers' pipeline.
        transformers: the pipeline's, before they are compiled; AdaSpa may be on them.

    Raises:
        ModelUnavailable: naming the adapter that cannot be taken, and why.
    """

    def __init__(self, spec: ModelSpec, pipeline: Any, transformers: Sequence[torch.nn.Module]) -> None:
        self.spec, self.pipeline = spec, pipeline
        self._files = lora_files.found(spec)
        self._sizes = sizes_of(transformers[0])
        headers = fitted(spec, self._files, pipeline, self._sizes)
        self._slots = [self._insert(part, place, headers) for place, part in enumerate(transformers)]
        self._cache: OrderedDict[str, dict[str, Pair]] = OrderedDict()
        self._now: list[LoraUse] | None = None
        """Adapters in the slots; None if unknown."""
        self.use([])

    @torch.no_grad()
    def use(self, uses: Sequence[LoraUse]) -> None:
        """Have these adapters in the slots, and nothing else. Raises ModelUnavailable: a file is not to be had."""
        wanted = [use for use in uses if use.scale]
        if wanted == self._now:
            return
        start, self._now = time.monotonic(), None
        entries = {lora.name: lora for lora in self.spec.loras}
        chosen = [(entries[use.name], use.scale or 0.0, self._pairs(entries[use.name], use.sha256)) for use in wanted]
        for place, (slots, rank) in enumerate(self._slots):
            for name, slot in slots.items():
                given = [
                    (pairs[name], scale)
                    for lora, scale, pairs in chosen
                    if place in EXPERTS[lora.expert] and name in pairs
                ]
                # In compiled blocks every slot has one size, and all are on or none is: two graphs, whatever they hold.
                self._fill(slot, given, rank if self.spec.compile else sum(len(pair.a) for pair, _ in given))
                slot.enable_adapters(bool(wanted if self.spec.compile else given))
                slot.requires_grad_(False)  # PEFT has it that what is on is trained
        self._now = wanted
        if wanted:
            log.info("LoRA %s: applied in %.2f s", told(wanted), time.monotonic() - start)

    def _pairs(self, lora: Lora, sha256: str | None) -> dict[str, Pair]:
        """An adapter's weights, from memory if it was used lately."""
        if sha256 not in (None, lora.sha256):
            lora_files.refuse(self.spec, lora, f"the job needs a file with SHA-256 {sha256}, but the catalog's differs")
        if (pairs := self._cache.pop(lora.name, None)) is None:
            content = lora_files.content(self.spec, lora, self._files[lora.name])
            pairs = fit(load(content), lora_files.metadata(content), self.pipeline, self._sizes).pairs
        self._cache[lora.name] = pairs
        while len(self._cache) > 1 and sum(map(size, self._cache.values())) > self.spec.memory.lora_cache_bytes:
            self._cache.popitem(last=False)
        return pairs

    def _insert(self, transformer: Any, place: int, headers: Mapping[str, Fitted]) -> tuple[dict[str, Slot], int]:
        """Return the slots of a transformer by layer, and the highest sum of ranks that a job may bring."""
        own = [headers[lora.name].pairs for lora in self.spec.loras if place in EXPERTS[lora.expert]]
        names = dict.fromkeys(name for pairs in own for name in pairs)
        if not names:
            return {}, 0
        slots = insert(transformer, names, self._sizes, with_bias=has_bias(own))
        return slots, highest_rank(own, self.spec.max_loras)

    def _fill(self, slot: Slot, given: Sequence[tuple[Pair, float]], rank: int) -> None:
        a, b, bias = slot.lora_A[SLOT].weight, slot.lora_B[SLOT].weight, slot.lora_B[SLOT].bias
        stacked_a, stacked_b = a.new_zeros(rank, a.shape[1]), b.new_zeros(b.shape[0], rank)
        if bias is not None:
            bias.zero_()
        begin = 0
        for pair, scale in given:
            end = begin + len(pair.a)
            stacked_a[begin:end] = pair.a
            stacked_b[:, begin:end] = pair.b.to(b.device) * scale
            if pair.bias is not None:
                bias += pair.bias.to(bias) * scale
            begin = end
        put(a, stacked_a)
        put(b, stacked_b)


def insert(transformer: Any, layers: Iterable[str], sizes: Sizes, *, with_bias: bool) -> dict[str, Slot]:
    """Put empty slots into a transformer's layers, and return them by layer."""
    empty, names = {}, list(layers)
    for name in names:
        inputs, outputs = sizes[name]
        weight = transformer.get_submodule(name).weight
        like = {"dtype": weight.dtype, "device": weight.device}
        empty[f"{name}.lora_A.weight"] = torch.zeros(1, inputs, **like)
        empty[f"{name}.lora_B.weight"] = torch.zeros(outputs, 1, **like)
        if with_bias:
            empty[f"{name}.lora_B.bias"] = torch.zeros(outputs, **like)
    transformer.load_lora_adapter(empty, prefix=None, adapter_name=SLOT)
    return {name: transformer.get_submodule(name) for name in names}


def highest_rank(adapters: Iterable[Mapping[str, Pair]], count: int) -> int:
    """Return the highest sum of ranks of ``count`` adapters."""
    ranks = sorted(max(len(pair.a) for pair in pairs.values()) for pairs in adapters)
    return sum(ranks[-count:])


def has_bias(adapters: Iterable[Mapping[str, Pair]]) -> bool:
    """Return whether any of the adapters changes a bias."""
    return any(pair.bias is not None for pairs in adapters for pair in pairs.values())


def check_files(spec: ModelSpec, pipeline: str, transformer: str, config: Mapping[str, Any]) -> None:
    """Check a catalog's adapters against a model that is not loaded.

    Args:
        spec: the catalog's entry.
        pipeline, transformer: names of diffusers' classes.
        config: of the transformer.

    Raises:
        ModelUnavailable: naming the adapter that cannot be taken, and why.
    """
    if not hasattr(getattr(diffusers, pipeline), "lora_state_dict"):
        lora_files.refuse(spec, spec.loras[0], f"diffusers cannot load adapters for {pipeline}; allowed: none")
    with init_empty_weights():
        empty = getattr(diffusers, transformer).from_config(config)
    fitted(spec, lora_files.found(spec), getattr(diffusers, pipeline), sizes_of(empty))


def fitted(spec: ModelSpec, files: Mapping[str, Path], pipeline: Any, sizes: Sizes) -> dict[str, Fitted]:
    """Each adapter as its file's header has it, without its weights. Raises ModelUnavailable: one does not fit."""
    found = {}
    for lora in spec.loras:
        with safe_open(files[lora.name], framework="pt") as header:
            tensors = {key: outline(header, key) for key in header.keys()}  # noqa: SIM118  it is no mapping
            metadata = header.metadata() or {}
        try:
            found[lora.name] = fit(tensors, metadata, pipeline, sizes)
        except Unfit as error:
            lora_files.refuse(spec, lora, str(error))
        if spec.memory.quantization == "int8" and has_bias([found[lora.name].pairs]):
            lora_files.refuse(spec, lora, "has biases, which PEFT's layers on int8 weights do not take; allowed: none")
        if lost := found[lora.name].lost:
            some = ", ".join(lost[:3]) + (", ..." if len(lost) > 3 else "")
            why = f"{len(lost)} of its weights do not fit the model ({some})"
            if not lora.partial:
                lora_files.refuse(spec, lora, f"{why}; allowed: none, or partial true")
            log.warning("model %s: LoRA %s: %s", spec.id, lora.name, why)
    return found


def outline(header: Any, key: str) -> Tensor:
    """A weight of a file: without data, but for those whose values decide what is left out."""
    piece = header.get_slice(key)
    shape = piece.get_shape()
    if key.endswith(".alpha") or (key.endswith(ADDED) and 4 * torch.Size(shape).numel() <= SMALL_BYTES):
        tensor: Tensor = header.get_tensor(key)
        return tensor
    return torch.empty(shape, device="meta")


def sizes_of(transformer: torch.nn.Module) -> Sizes:
    """Inputs and outputs of each linear layer."""
    layers = transformer.named_modules()
    return {
        name: (layer.in_features, layer.out_features) for name, layer in layers if isinstance(layer, torch.nn.Linear)
    }


def put(parameter: torch.nn.Parameter, value: Tensor) -> None:
    """Give a parameter another value: in its place, if that has the room."""
    if parameter.shape == value.shape:
        parameter.copy_(value)
    else:
        parameter.data = value


def size(pairs: Mapping[str, Pair]) -> int:
    """Bytes of an adapter's weights."""
    return sum(part.nbytes for pair in pairs.values() for part in pair if part is not None)


def told(uses: Sequence[LoraUse]) -> str:
    """Adapters in words."""
    return ", ".join(f"{use.name} at {use.scale:g}" for use in uses)
