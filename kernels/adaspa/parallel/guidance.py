"""Guidance by two branches of classifier-free guidance side by side, each by its own processes."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from diffusers.hooks.hooks import BaseState, HookRegistry, ModelHook, StateManager

HOOK = "adaspa_guidance"
BRANCHES = ("cond", "uncond")
"""Contexts of pipelines that call the transformer once for each branch, in this order."""
BOTH = "cond_uncond"
"""Context of pipelines that call it once, with the branches as halves of the batch."""


class Guidance(ModelHook):
    """Lets this process run its branch only, and has both give out both.

    Of two calls it leaves one out: the first gives out an empty tensor, which is filled behind the second. A pipeline
    that has guidance off for a step, or altogether, runs as without it.
    """

    _is_stateful = True

    def __init__(self, pipe: Any, group: Any) -> None:
        super().__init__()
        self.pipe = pipe
        self.group = group
        self.branch = dist.get_rank(group)
        self.first: torch.Tensor | None = None
        # Where `cache_context` leaves the context.
        self.location = StateManager(BaseState)

    @torch.compiler.disable(recursive=False)
    def new_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        forward = self.fn_ref.original_forward
        if not self.pipe.do_classifier_free_guidance:
            return forward(*args, **kwargs)
        name = self.location.context.name
        if name not in (*BRANCHES, BOTH):
            raise ValueError(f"guidance must be 1 for a pipeline with the branch {name!r}: there is a place for two")
        if args:
            raise ValueError("the transformer must be called with keyword arguments if guidance is parallel")
        if name == BOTH:
            return self._halves(forward, kwargs)
        return self._calls(forward, module, kwargs, BRANCHES.index(name))

    def reset_state(self, module: torch.nn.Module) -> torch.nn.Module:
        self.first = None
        return module

    def _halves(self, forward: Any, kwargs: dict[str, Any]) -> Any:
        """One call with both branches: this process takes its half of the batch."""
        samples = kwargs["hidden_states"].shape[0]
        half = slice(self.branch * samples // 2, (self.branch + 1) * samples // 2)
        mine = {name: _part(value, samples, half) for name, value in kwargs.items()}
        out = forward(**{**mine, "return_dict": False})[0].contiguous()
        both = [torch.empty_like(out) for _ in BRANCHES]
        dist.all_gather(both, out, group=self.group)
        return (torch.cat(both),)

    def _calls(self, forward: Any, module: Any, kwargs: dict[str, Any], branch: int) -> Any:
        """One of two calls: this process runs one of them, and waits for the other behind the second."""
        if branch == 0 and self.first is not None:
            raise RuntimeError("the pipeline called the conditional branch twice, but guidance needs both in turn")
        if branch == self.branch:
            out = forward(**{**kwargs, "return_dict": False})[0].contiguous()
        else:
            latents = kwargs["hidden_states"]
            out = latents.new_empty(latents.shape[0], module.config.out_channels, *latents.shape[2:])
        if branch == 0:
            self.first = out
            return (out,)
        if self.first is None:
            raise RuntimeError("the pipeline called the unconditional branch alone, but guidance needs both in turn")
        for source, result in enumerate((self.first, out)):
            dist.broadcast(result, group_src=source, group=self.group)
        self.first = None
        return (out,)


def check(pipe: Any) -> None:
    """Raise ValueError unless a pipeline says when it has guidance on."""
    if not hasattr(type(pipe), "do_classifier_free_guidance"):
        raise ValueError(
            f"guidance must be 1 for {type(pipe).__name__}: it does not say whether it has two guidance branches"
        )


def install(transformer: Any, pipe: Any, group: Any) -> None:
    """Run one guidance branch of a transformer in this process, around all hooks that it has."""
    registry = HookRegistry.check_if_exists_or_initialize(transformer)
    registry.invalidate_child_registries_cache()
    registry.register_hook(Guidance(pipe, group), HOOK)
    transformer.adaspa.undo.append(lambda: registry.remove_hook(HOOK, recurse=False))


def go_by(pipe: Any, transformers: Iterable[Any]) -> None:
    """Go by the guidance of another pipeline of the same transformers from its next call on."""
    for transformer in transformers:
        transformer._diffusers_hook.get_hook(HOOK).pipe = pipe


def _part(value: Any, samples: int, half: slice) -> Any:
    """Take the half of a tensor that has a row for each sample; anything else as it is."""
    each = isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == samples
    return value[half] if each else value
