"""A diffusers hook in the innermost place around a module's forward.

There it sees what the model really gets (FasterCache halves the batch on the way), and no other hook takes it along:
when diffusers removes a hook, the one around it loses a ``new_forward`` of its own without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch


def install(module: torch.nn.Module, hook: Any, name: str) -> None:
    """Register ``hook`` within all that are there; hooks that come later are around it anyway."""
    registry = _registry(module)
    with _under_accelerate(module):
        if not registry.hooks:
            registry.register_hook(hook, name)
            return
        around = registry._fn_refs[0]
        outermost = module.forward
        module.forward = around.forward if around.original_forward is None else around.original_forward
        registry.register_hook(hook, name)
        _set_inner(around, module.forward)
        module.forward = outermost
        for places in (registry._hook_order, registry._fn_refs):
            places.insert(0, places.pop())


def take_out(module: torch.nn.Module, name: str) -> Any:
    """Remove the hook of that name and leave all others as they are; returns it, or None if it was gone."""
    registry = _registry(module)
    hook = registry.get_hook(name)
    if hook is None:
        return None
    with _under_accelerate(module):
        place = registry._hook_order.index(name)
        around = [ref for ref in registry._fn_refs[place + 1 : place + 2] if ref.original_forward is not None]
        theirs = [ref.forward for ref in around]
        registry.remove_hook(name, recurse=False)
        for ref, forward in zip(around, theirs, strict=True):
            ref.original_forward, ref.forward = ref.forward, forward
    return hook


def _set_inner(around: Any, forward: Any) -> None:
    """Have the hook of that function reference call ``forward``."""
    if around.original_forward is None:
        around.forward = forward
    else:
        around.original_forward = forward


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


def _registry(module: torch.nn.Module) -> Any:
    registry = import_module("diffusers.hooks").HookRegistry.check_if_exists_or_initialize(module)
    # A registry that is new, or emptied, must not be hidden by the list that cache_context remembers.
    registry.invalidate_child_registries_cache()
    return registry
