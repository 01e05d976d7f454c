"""Install AdaSpa in a diffusers transformer, and take it out again."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

from adaspa import innermost
from adaspa.config import AdaSpaConfig
from adaspa.guard import Guard
from adaspa.handle import AdaSpaHandle

if TYPE_CHECKING:
    from adaspa.models.family import Family

# The transformer's class, and the module and class that describe its family.
SUPPORTED = {
    "WanTransformer3DModel": ("wan", "Wan"),
    "HunyuanVideoTransformer3DModel": ("hunyuan_video", "HunyuanVideo"),
    "HunyuanVideo15Transformer3DModel": ("hunyuan_video15", "HunyuanVideo15"),
    "CogVideoXTransformer3DModel": ("cogvideox", "CogVideoX"),
    "LTXVideoTransformer3DModel": ("ltx", "LTX"),
    "LTX2VideoTransformer3DModel": ("ltx2", "LTX2"),
    "MochiTransformer3DModel": ("mochi", "Mochi"),
}
HOOK = "adaspa"


def apply(transformer: torch.nn.Module, config: AdaSpaConfig | None = None) -> AdaSpaHandle:
    """Replace the self-attention of a diffusers video transformer by AdaSpa.

    Every pipeline call then follows the schedule of ``config`` by itself. Pipelines with two experts (Wan 2.2) have two
    transformers: apply it to each, they share nothing. Applying it again replaces the config.

    Args:
        transformer: the transformer of a pipeline, in place.
        config: the settings; the preset ``balanced`` by default.

    Returns:
        The handle, also at ``transformer.adaspa``.

    Raises:
        ValueError: when the model is not supported, naming those that are, or when an attention processor of somebody
            else would be lost.
    """
    family = _family(transformer)
    config = AdaSpaConfig.preset("balanced") if config is None else config
    handle = getattr(transformer, "adaspa", None)
    if handle is not None:
        _install_processors(Guard(transformer, family), handle)
        handle.configure(config)
        return handle
    handle = AdaSpaHandle(AdaSpaConfig())
    handle.configure(config)
    guard = Guard(transformer, family)
    _install_processors(guard, handle)
    hook = import_module("adaspa.hook").StepHook(handle, guard, transformer)
    hook.tile_hooks = import_module("adaspa.models.tile_order").install_hooks(transformer, handle, family.embeddings)
    innermost.install(transformer, hook, HOOK)
    transformer.adaspa = handle  # type: ignore[assignment]
    return handle


def remove(transformer: torch.nn.Module) -> None:
    """Put the original attention processors back and drop everything that `apply` added.

    Raises:
        ValueError: when AdaSpa is not applied to ``transformer``.
    """
    handle = getattr(transformer, "adaspa", None)
    if not isinstance(handle, AdaSpaHandle):
        raise ValueError(f"transformer must be one that adaspa.apply was called on, got {type(transformer).__name__}")
    family = _family(transformer)
    for attn in family.layers(transformer):
        # Fusing the projections of CogVideoX replaces the processors.
        attn.processor = _without(family, attn.processor)
    # What it replaced comes back when they are unfused.
    replaced: dict[str, Any] = vars(transformer).get("original_attn_processors") or {}
    replaced.update({name: _without(family, processor) for name, processor in replaced.items()})
    if (hook := innermost.take_out(transformer, HOOK)) is not None:
        for tile_hook in hook.tile_hooks:
            tile_hook.remove()
    handle.reset()
    handle.tiles = None
    del transformer.adaspa


def _install_processors(guard: Guard, handle: AdaSpaHandle) -> None:
    """Put AdaSpa's attention processors in the place of diffusers' own, in all layers or in none."""
    family = guard.family
    processors = []
    for layer, (attn, name) in enumerate(zip(guard.layers, guard.names, strict=True)):
        if not isinstance(attn.processor, family.processor):
            if type(attn.processor) not in family.originals:
                raise ValueError(
                    f"{name} must have {' or '.join(original.__name__ for original in family.originals)} as its "
                    f"attention processor, which AdaSpa replaces; got {type(attn.processor).__name__}"
                )
            processors.append((attn, family.processor(attn.processor, handle, layer)))
    for attn, processor in processors:
        attn.processor = processor


def _without(family: Family, processor: Any) -> Any:
    """The processor that AdaSpa's replaced, or one that is not AdaSpa's."""
    return processor.original if isinstance(processor, family.processor) else processor


def _family(transformer: torch.nn.Module) -> Family:
    for cls in type(transformer).__mro__:
        if cls.__name__ in SUPPORTED:
            module, name = SUPPORTED[cls.__name__]
            # diffusers is imported only here, so that the attention functions work without it.
            family: Family = getattr(import_module(f"adaspa.models.{module}"), name)()
            return family
    if type(transformer).__name__ == "OptimizedModule":
        raise ValueError(
            "transformer must not be wrapped by torch.compile: adaspa.apply it, then transformer.compile()"
        )
    raise ValueError(
        f"transformer must be one of {', '.join(SUPPORTED)}, got {type(transformer).__name__}"
        " (of a pipeline, pass its transformer)"
    )
