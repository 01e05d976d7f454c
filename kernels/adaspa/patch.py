"""Install AdaSpa in a diffusers transformer, and take it out again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

from adaspa.config import AdaSpaConfig
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
        ValueError: when the model is not supported, naming those that are.
    """
    family = _family(transformer)
    config = AdaSpaConfig.preset("balanced") if config is None else config
    handle = getattr(transformer, "adaspa", None)
    if handle is not None:
        handle.configure(config)
        return handle
    handle = AdaSpaHandle(AdaSpaConfig())
    handle.configure(config)
    hook = import_module("adaspa.hook").StepHook(handle, family, transformer)
    layers = family.layers(transformer)
    processors = [family.processor(attn.processor, handle, layer) for layer, attn in enumerate(layers)]
    for attn, processor in zip(layers, processors, strict=True):
        attn.processor = processor
    hook.tile_hooks = import_module("adaspa.models.tile_order").install_hooks(transformer, handle, family.embeddings)
    with _under_accelerate(transformer):
        _registry(transformer).register_hook(hook, HOOK)
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
        if isinstance(attn.processor, family.processor):
            attn.processor = attn.processor.original
    registry = _registry(transformer)
    for tile_hook in registry.get_hook(HOOK).tile_hooks:
        tile_hook.remove()
    with _under_accelerate(transformer):
        registry.remove_hook(HOOK, recurse=False)
    handle.reset()
    del transformer.adaspa


@contextmanager
def _under_accelerate(transformer: Any) -> Iterator[None]:
    """Change the forward that accelerate's wrapper calls, where there is one (CPU offload), and not what is around it.

    Offloading takes its wrapper off and puts it on again with every pipeline call, and what lies around it is lost.
    """
    if not (hasattr(transformer, "_hf_hook") and hasattr(transformer, "_old_forward")):
        yield
        return
    wrapper, transformer.forward = transformer.forward, transformer._old_forward
    try:
        yield
    finally:
        transformer._old_forward, transformer.forward = transformer.forward, wrapper


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


def _registry(transformer: torch.nn.Module) -> Any:
    registry = import_module("diffusers.hooks").HookRegistry.check_if_exists_or_initialize(transformer)
    # A registry that is new, or emptied, must not be hidden by the list that cache_context remembers.
    registry.invalidate_child_registries_cache()
    return registry
