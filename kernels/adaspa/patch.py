"""Install AdaSpa in a diffusers transformer, and take it out again."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from adaspa.config import AdaSpaConfig
from adaspa.handle import AdaSpaHandle

# The transformer's class, and where its layers and its attention processor are described.
SUPPORTED = {"WanTransformer3DModel": ("adaspa.models.wan", "WanAdaSpaProcessor")}
HOOK = "adaspa"


def apply(transformer: torch.nn.Module, config: AdaSpaConfig | None = None) -> AdaSpaHandle:
    """Replace the self-attention of a diffusers video transformer by AdaSpa.

    Every pipeline call then follows the schedule of ``config`` by itself. Pipelines with two experts (Wan 2.2) have two
    transformers: apply it to each, they share nothing. Applying it again replaces the config.

    Args:
        transformer: the transformer of a pipeline, in place.
        config: the settings; ``AdaSpaConfig()`` by default.

    Returns:
        The handle, also at ``transformer.adaspa``.

    Raises:
        ValueError: when the model is not supported, naming those that are.
    """
    family = _family(transformer)
    config = AdaSpaConfig() if config is None else config
    handle = getattr(transformer, "adaspa", None)
    if handle is not None:
        handle.configure(config)
        return handle
    handle = AdaSpaHandle(AdaSpaConfig())
    handle.configure(config)
    module, processor = family
    # diffusers is imported only here, so that the attention functions work without it.
    model = import_module(module)
    hook = import_module("adaspa.hook").StepHook(handle, transformer)
    registry = _registry(transformer)
    for layer, attn in enumerate(model.self_attention_layers(transformer)):
        attn.set_processor(getattr(model, processor)(attn.processor, handle, layer))
    registry.register_hook(hook, HOOK)
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
    model = import_module(_family(transformer)[0])
    for attn in model.self_attention_layers(transformer):
        attn.set_processor(attn.processor.original)
    _registry(transformer).remove_hook(HOOK, recurse=False)
    handle.reset()
    del transformer.adaspa


def _family(transformer: torch.nn.Module) -> tuple[str, str]:
    for cls in type(transformer).__mro__:
        if cls.__name__ in SUPPORTED:
            return SUPPORTED[cls.__name__]
    raise ValueError(
        f"transformer must be one of {', '.join(SUPPORTED)}, got {type(transformer).__name__}"
        " (of a pipeline, pass its transformer)"
    )


def _registry(transformer: torch.nn.Module) -> Any:
    registry = import_module("diffusers.hooks").HookRegistry.check_if_exists_or_initialize(transformer)
    # A registry that is new, or emptied, must not be hidden by the list that cache_context remembers.
    registry.invalidate_child_registries_cache()
    return registry
