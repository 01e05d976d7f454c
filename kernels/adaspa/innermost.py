"""A diffusers hook in the innermost place around a module's forward.

There it sees what the model really gets (FasterCache halves the batch on the way), and no other hook takes it along:
when diffusers removes a hook, the one around it loses a ``new_forward`` of its own without a word. It is also within
the wrapper of accelerate's CPU offload, which comes off and on again with every pipeline call, without what was around.
"""

import functools
from importlib import import_module
from typing import Any

import torch


def install(module: torch.nn.Module, hook: Any, name: str) -> None:
    """Register ``hook`` within all that are there; what comes later is around it anyway."""
    registry = _registry(module)
    owner, slot = _innermost(module, registry)
    outermost = module.forward
    module.forward = getattr(owner, slot)
    registry.register_hook(hook, name)
    hook.around = module.forward  # what the registry made of it, to be found again
    module.forward = outermost
    setattr(owner, slot, hook.around)
    # Removing another hook changes the one behind it in these lists: never the first.
    for places in (registry._hook_order, registry._fn_refs):
        places.insert(0, places.pop())


def take_out(module: torch.nn.Module, name: str) -> Any:
    """Remove the hook of that name and leave all others as they are; returns it, or None if it was gone."""
    registry = _registry(module)
    hook = registry.hooks.pop(name, None)
    if hook is None:
        return None
    place = registry._hook_order.index(name)
    registry._hook_order.pop(place)
    registry._fn_refs.pop(place)
    refs = [(ref, slot) for ref in registry._fn_refs for slot in ("forward", "original_forward")]
    for owner, slot in ((module, "forward"), (module, "_old_forward"), *refs):
        if getattr(owner, slot, None) is hook.around:
            setattr(owner, slot, hook.fn_ref.original_forward)
    # Whoever kept the forward of ours elsewhere gets the model's own through it.
    hook.fn_ref.forward = hook.fn_ref.original_forward
    return hook


def _innermost(module: torch.nn.Module, registry: Any) -> tuple[Any, str]:
    """Return the object that holds the model's own forward, and the attribute's name."""
    accelerated = hasattr(module, "_hf_hook") and hasattr(module, "_old_forward")
    # Diffusers' hooks are partials: those that were there before the offload are within its wrapper.
    if accelerated and not isinstance(module._old_forward, functools.partial):
        return module, "_old_forward"
    if registry._fn_refs:
        innermost = registry._fn_refs[0]
        return innermost, "forward" if innermost.original_forward is None else "original_forward"
    return module, "_old_forward" if accelerated else "forward"


def _registry(module: torch.nn.Module) -> Any:
    registry = import_module("diffusers.hooks").HookRegistry.check_if_exists_or_initialize(module)
    # A registry that is new, or emptied, must not be hidden by the list that cache_context remembers.
    registry.invalidate_child_registries_cache()
    return registry
