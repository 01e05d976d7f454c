"""Spread each video over the processes of torch.distributed."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from adaspa.context_parallel import check_plan
from adaspa.parallel.ranks import Ranks, check_degree
from adaspa.patch import Pipeline, applied_to, family_of

if TYPE_CHECKING:
    from adaspa.models.family import Family


def parallelize(model: torch.nn.Module | Pipeline, *, ulysses: int = 1, guidance: int = 1) -> None:
    """Have all processes of torch.distributed make one video together. Each of them calls it, and then the pipeline.

    With ``ulysses`` the processes of a group hold a part of the tokens each, and within self-attention all tokens of
    some heads (DeepSpeed Ulysses): the patterns are those of one process. After each search the heads are dealt anew,
    so that all have as much to do. With ``guidance`` the two branches of classifier-free guidance run side by side.

    Where diffusers has a plan for the model, its own
    ``transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=n))`` does as well as ``ulysses``.

    Args:
        model: what `adaspa.apply` was called on: a pipeline, or one transformer (then without ``guidance``).
        ulysses: processes that share a sequence; at most as many as an attention layer has heads.
        guidance: 2 to have a process, or a group of ``ulysses``, for each guidance branch.

    Raises:
        ValueError: naming the argument and what is allowed, before anything has changed.
    """
    parts = applied_to(model)
    families = [family_of(part) for part in parts]
    pipe = None if isinstance(model, torch.nn.Module) else model
    _check_numbers(ulysses, guidance)
    if guidance > 1:
        import_module("adaspa.parallel.guidance").check(pipe)
    for part, family in zip(parts, families, strict=True):
        if part._parallel_config is not None:
            raise ValueError(f"model must not be parallel yet, got a {type(part).__name__} that is")
        if ulysses > 1:
            check_degree(ulysses, family.heads(part), uneven=True)
            check_plan(part, family)
    device = next(parts[0].parameters()).device
    mesh = dist.init_device_mesh(device.type, (guidance, 1, ulysses), mesh_dim_names=("guidance", "ring", "ulysses"))
    for part, family in zip(parts, families, strict=True):
        if ulysses > 1:
            _share_sequences(part, family, mesh, device, ulysses)
        if guidance > 1:
            import_module("adaspa.parallel.guidance").install(part, pipe, mesh["guidance"].get_group())


def _check_numbers(ulysses: int, guidance: int) -> None:
    for name, value, allowed in (("ulysses", ulysses, ulysses), ("guidance", guidance, min(guidance, 2))):
        if not isinstance(value, int) or value < 1 or value != allowed:
            what = "1 or 2" if name == "guidance" else "an integer of at least 1"
            raise ValueError(f"{name} must be {what}, got {value!r}")
    if not dist.is_initialized():
        raise ValueError("torch.distributed.init_process_group must come before adaspa.parallelize")
    if (world := dist.get_world_size()) != ulysses * guidance:
        raise ValueError(f"ulysses * guidance must be the number of processes, {world}, got {ulysses} * {guidance}")


def _share_sequences(transformer: Any, family: "Family", mesh: Any, device: torch.device, degree: int) -> None:
    parallel = import_module("diffusers.models._modeling_parallel")
    context = parallel.ContextParallelConfig(ulysses_degree=degree, ulysses_anything=True, mesh=mesh)
    config = parallel.ParallelConfig(context_parallel_config=context)
    config.setup(dist.get_rank(), dist.get_world_size(), device, mesh=mesh)
    own = family.plan(transformer)
    plan = {name: part for name, part in (own or transformer._cp_plan).items() if name not in family.parted.values()}
    outputs = {name: plan.pop(name) for name, part in list(plan.items()) if not isinstance(part, dict)}
    # Diffusers asks for the number of accelerators, of which a CPU has none.
    transformer._resolve_parallel_config = lambda _: config
    try:
        transformer.enable_parallelism(config=config, cp_plan=plan)
    finally:
        del transformer._resolve_parallel_config
    transformer._parallel_config = config
    gather = import_module("adaspa.parallel.gather")
    ranks = Ranks(config.context_parallel_config._ulysses_mesh.get_group())
    gather.install(transformer, outputs, ranks)
    embedded = import_module("adaspa.parallel.embedded")
    transformer.adaspa.undo += embedded.install(transformer, family.parted, family.narrowed, ranks)
    if own is not None:  # other attention than AdaSpa's is over text that every rank has
        _leave_processors(transformer, family.exchanging)
    transformer.adaspa.undo.append(lambda: _share_no_more(transformer, plan, outputs))


def _share_no_more(transformer: Any, plan: dict[str, Any], outputs: dict[str, Any]) -> None:
    import_module("adaspa.parallel.gather").remove(transformer, outputs)
    import_module("diffusers.hooks.context_parallel").remove_context_parallel(transformer, plan)
    transformer._parallel_config = None
    _leave_processors(transformer)


def _leave_processors(transformer: Any, exchanging: tuple[str, ...] = ()) -> None:
    for name, module in transformer.named_modules():
        if hasattr(getattr(module, "processor", None), "_parallel_config") and not name.endswith(exchanging):
            module.processor._parallel_config = None
