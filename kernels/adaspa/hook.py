"""One diffusers hook that follows the forwards of a transformer."""

import inspect
from typing import Any

import torch
from diffusers.hooks.hooks import BaseState, CacheContext, ModelHook, StateManager

from adaspa.context_parallel import ranks_of
from adaspa.forward import Forward
from adaspa.guard import Guard
from adaspa.handle import AdaSpaHandle
from adaspa.layout import Layout, Permutation
from adaspa.models.tile_order import reordered, tile_permutation
from adaspa.parallel.ranks import Ranks
from adaspa.parallel.share import Share
from adaspa.plan import Plan


class StepHook(ModelHook):
    """Tells the handle the step and CFG branch of each forward, times it, and ends the request when it raises.

    It is stateful in diffusers' sense: a pipeline hands it the context of each forward, and resets it when it is done.
    """

    _is_stateful = True

    def __init__(self, handle: AdaSpaHandle, guard: Guard, module: torch.nn.Module) -> None:
        super().__init__()
        self.handle = handle
        self.guard = guard
        self.family = guard.family
        # A StateManager among the attributes is where `cache_context` leaves the context; nothing is stored in it.
        self.location = StateManager(BaseState)
        self.tile_hooks: list[Any] = []
        self._parallel: tuple[Any, Ranks | None] = (None, None)
        self.parameters = list(inspect.signature(type(module).forward).parameters)[1:]

    # The steps are counted in Python; what torch.compile compiles is the forward below.
    @torch.compiler.disable(recursive=False)
    def new_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        with self.handle.alone():
            return self._follow(module, *args, **kwargs)

    @torch.compiler.disable(recursive=False)
    def _follow(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(self.parameters, args, strict=False)), **kwargs}
        self.guard.check_processors()
        context = self._context()
        share = self._share(module)
        layout = self.family.layout(module, share.as_whole(module, given) if share else given)
        state = self.handle.begin_forward(
            self.family.timestep(given),
            context.name if context else None,
            context.step_index if context else None,
            context.num_inference_steps if context else None,
        )
        latents = self.family.latents(given)
        device = latents.device
        state.for_latents(latents.shape)
        try:
            tiles = _tiles(state.plan, layout, share, device)
            first = self.family.video_first(given, layout) if layout.before and tiles is None else None
            if first is not None:
                layout = layout.with_video_first()
            state.record.ranks = share.ranks.size if share else 1
            self.handle.forward = forward = Forward(state, layout, tiles, share)
            if tiles is not None:
                args, kwargs = (), self._in_tile_order(given, tiles)
            elif first is not None:
                args, kwargs = (), first
            with state.record.timed(lambda: state.kind, device):
                out = self.fn_ref.original_forward(*args, **kwargs)
            self.guard.close(forward, given)
            return out
        except BaseException:
            self.handle.reset()
            raise
        finally:
            self.handle.forward = None

    def _in_tile_order(self, given: dict[str, Any], tiles: Permutation) -> dict[str, Any]:
        """Reorder the arguments that hold something for each video token, and not one for each sample."""
        changed = {
            name: reordered(given[name], reorder, tiles.order)
            for name, reorder in self.family.arguments.items()
            if given.get(name) is not None and not (isinstance(given[name], torch.Tensor) and given[name].ndim < 2)
        }
        return {**given, **changed}

    def reset_state(self, module: torch.nn.Module) -> torch.nn.Module:
        self.handle.reset()
        return module

    def _share(self, module: Any) -> Share | None:
        """Return this rank's share of the forward that comes, if the transformer runs with context parallelism."""
        config = getattr(module, "_parallel_config", None)
        if config is not self._parallel[0]:
            self._parallel = (config, ranks_of(module, self.family))
        ranks = self._parallel[1]
        return None if ranks is None else Share(ranks, self.family.heads(module))

    def _context(self) -> CacheContext | None:
        try:
            return self.location.context
        except ValueError:
            # The pipeline calls the transformer without a context.
            return None


def _tiles(plan: Plan, layout: Layout, share: Share | None, device: torch.device) -> Permutation | None:
    if not plan.in_tiles:
        return None
    if share is not None:
        raise ValueError("token_order must be 'raster' under context parallelism: the ranks split tokens in that order")
    if layout.grid is None:
        raise ValueError("token_order must be 'raster' for a video with conditioning frames or tokens of its own")
    return tile_permutation(layout.grid, plan.key_block, device)
