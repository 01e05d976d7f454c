"""Install AdaSpa in a diffusers pipeline or transformer, and take it out again."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, overload

import torch

from adaspa import innermost
from adaspa.config import AdaSpaConfig
from adaspa.handle import AdaSpaHandle

if TYPE_CHECKING:
    from adaspa.guard import Guard
    from adaspa.models.family import Family

SUPPORTED = {
    "WanTransformer3DModel": ("wan", "Wan"),
    "HunyuanVideoTransformer3DModel": ("hunyuan_video", "HunyuanVideo"),
    "HunyuanVideo15Transformer3DModel": ("hunyuan_video15", "HunyuanVideo15"),
    "CogVideoXTransformer3DModel": ("cogvideox", "CogVideoX"),
    "LTXVideoTransformer3DModel": ("ltx", "LTX"),
    "LTX2VideoTransformer3DModel": ("ltx2", "LTX2"),
    "MochiTransformer3DModel": ("mochi", "Mochi"),
    "MiniMaxH3Transformer3DModel": ("minimax_h3", "MiniMaxH3"),
    "Kandinsky5Transformer3DModel": ("kandinsky5", "Kandinsky5"),
    "Kandinsky6Transformer3DModel": ("kandinsky6", "Kandinsky6"),
    "Kandinsky6SRTransformer3DModel": ("kandinsky6_sr", "Kandinsky6SR"),
    "SkyReelsV2Transformer3DModel": ("skyreels_v2", "SkyReelsV2"),
    "WanVACETransformer3DModel": ("wan_vace", "WanVACE"),
    "WanAnimateTransformer3DModel": ("wan_animate", "WanAnimate"),
    "ChronoEditTransformer3DModel": ("chronoedit", "ChronoEdit"),
    "CosmosTransformer3DModel": ("cosmos", "Cosmos"),
    "Cosmos3OmniTransformer": ("cosmos3", "Cosmos3"),
    "HunyuanVideoFramepackTransformer3DModel": ("hunyuan_video_framepack", "HunyuanVideoFramepack"),
    "MotifVideoTransformer3DModel": ("motif_video", "MotifVideo"),
    "EasyAnimateTransformer3DModel": ("easyanimate", "EasyAnimate"),
    "AllegroTransformer3DModel": ("allegro", "Allegro"),
    "ConsisIDTransformer3DModel": ("consisid", "ConsisID"),
}
"""Class of the transformer, and the module and class that describe its family."""
HOOK = "adaspa"
RESET = "_reset_stateful_cache"
"""Methods that pipelines call behind their last step, if their models have them; not all that we take do."""


class Pipeline(Protocol):
    """A pipeline of diffusers, modular or not."""

    scheduler: Any

    @property
    def components(self) -> dict[str, Any]: ...


@overload
def apply(model: torch.nn.Module, config: AdaSpaConfig | None = None) -> AdaSpaHandle: ...


@overload
def apply(model: Pipeline, config: AdaSpaConfig | None = None) -> tuple[AdaSpaHandle, ...]: ...


def apply(
    model: torch.nn.Module | Pipeline, config: AdaSpaConfig | None = None
) -> AdaSpaHandle | tuple[AdaSpaHandle, ...]:
    """Replace the self-attention of a diffusers video pipeline by AdaSpa.

    Every call of the pipeline then follows the schedule of ``config``, over the steps that its scheduler tells: of
    first or second order, from the middle (``strength``), in windows, with two experts (Wan 2.2). The scheduler is only
    read, and may be replaced later. Pipelines that share a transformer are applied each; applying again replaces the
    config.

    A transformer alone is taken too. Without a scheduler it counts the steps by what the pipeline tells it, and may
    need `AdaSpaHandle.begin`.

    Args:
        model: a pipeline, whose transformers are changed in place, or one transformer.
        config: the settings; the preset ``balanced`` by default.

    Returns:
        The handle of the transformer, also at ``transformer.adaspa``; for a pipeline those of all its transformers.

    Raises:
        ValueError: when the model is not supported, naming those that are, or when an attention processor of somebody
            else would be lost, or when ``config`` names a dense layer that a transformer does not have.
    """
    if isinstance(model, torch.nn.Module):
        return _install(model, config)
    transformers = _transformers(model)
    new = [transformer for transformer in transformers if getattr(transformer, "adaspa", None) is None]
    try:
        handles = tuple(_install(transformer, config) for transformer in transformers)
    except Exception:
        for transformer in new:
            if hasattr(transformer, "adaspa"):
                remove(transformer)
        raise
    for handle in handles:
        handle.follow(model)
    return handles


def remove(model: torch.nn.Module | Pipeline) -> None:
    """Put the original attention processors back and drop everything that `apply` added.

    Args:
        model: a pipeline, or one transformer.

    Raises:
        ValueError: when AdaSpa is not applied to ``model``.
    """
    for transformer in applied_to(model):
        _uninstall(transformer)


def applied_to(model: torch.nn.Module | Pipeline) -> list[Any]:
    """List the transformers of a pipeline that AdaSpa is applied to, or the one that is given.

    Raises:
        ValueError: when there is none.
    """
    parts = [model] if isinstance(model, torch.nn.Module) else _transformers(model)
    applied = [part for part in parts if isinstance(getattr(part, "adaspa", None), AdaSpaHandle)]
    if not applied:
        raise ValueError(f"model must be one that adaspa.apply was called on, got {type(model).__name__}")
    return applied


def _transformers(pipe: Pipeline) -> list[torch.nn.Module]:
    """Find the transformers of a pipeline that AdaSpa is for, by name."""
    parts = getattr(pipe, "components", None)
    if not isinstance(parts, dict):
        raise ValueError(f"model must be a pipeline or a transformer of diffusers, got {type(pipe).__name__}")
    modules = [parts[name] for name in sorted(parts) if isinstance(parts[name], torch.nn.Module)]
    found = [part for part in modules if _described(getattr(part, "_orig_mod", part)) is not None]
    if not found:
        raise ValueError(f"model must have a transformer of {', '.join(SUPPORTED)}; {type(pipe).__name__} has none")
    return found


def _install(transformer: torch.nn.Module, config: AdaSpaConfig | None) -> AdaSpaHandle:
    family = family_of(transformer)
    config = AdaSpaConfig.preset("balanced") if config is None else config
    handle = getattr(transformer, "adaspa", None)
    if handle is not None:
        _install_processors(_guard(transformer, family), handle)
        handle.configure(config)
        return handle
    guard = _guard(transformer, family)
    handle = AdaSpaHandle(config, family.timesteps_rise, len(guard.layers))
    _install_processors(guard, handle)
    hook = import_module("adaspa.hook").StepHook(handle, guard, transformer)
    hook.tile_hooks = import_module("adaspa.models.tile_order").install_hooks(
        transformer, handle, family.embeddings, family.outputs
    )
    innermost.install(transformer, hook, HOOK)
    if not hasattr(transformer, RESET):
        setattr(transformer, RESET, handle.reset)
    transformer.adaspa = handle  # type: ignore[assignment]
    return handle


def _guard(transformer: torch.nn.Module, family: "Family") -> "Guard":
    # It brings PyTorch's compiler, which takes as long to import as PyTorch: settings and operations work without it.
    guard: Guard = import_module("adaspa.guard").Guard(transformer, family)
    return guard


def _uninstall(transformer: torch.nn.Module) -> None:
    handle: AdaSpaHandle = transformer.adaspa  # type: ignore[assignment]
    while handle.undo:
        handle.undo.pop()()
    family = family_of(transformer)
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
    vars(transformer).pop(RESET, None)
    del transformer.adaspa


def _install_processors(guard: "Guard", handle: AdaSpaHandle) -> None:
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


def _without(family: "Family", processor: Any) -> Any:
    """Return the processor that AdaSpa's replaced, or one that is not AdaSpa's."""
    return processor.original if isinstance(processor, family.processor) else processor


def _described(transformer: torch.nn.Module) -> tuple[str, str] | None:
    """Module and class that describe the transformer's family, or None."""
    return next((SUPPORTED[cls.__name__] for cls in type(transformer).__mro__ if cls.__name__ in SUPPORTED), None)


def family_of(transformer: torch.nn.Module) -> "Family":
    """Describe the transformer's family. Raises ValueError, naming those that there are, if it has none."""
    if described := _described(transformer):
        module, name = described
        # diffusers is imported only here, so that the attention functions work without it.
        family: Family = getattr(import_module(f"adaspa.models.{module}"), name)()
        return family
    if type(transformer).__name__ == "OptimizedModule":
        raise ValueError(
            "transformer must not be wrapped by torch.compile: adaspa.apply it, then transformer.compile()"
        )
    raise ValueError(f"transformer must be one of {', '.join(SUPPORTED)}, got {type(transformer).__name__}")
