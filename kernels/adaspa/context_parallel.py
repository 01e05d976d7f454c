"""Context parallelism of a transformer as diffusers configures it, and what AdaSpa needs of it."""

from typing import TYPE_CHECKING, Any

from adaspa.parallel.ranks import Ranks, check_degree, check_kind

if TYPE_CHECKING:
    from adaspa.models.family import Family


def ranks_of(transformer: Any, family: "Family") -> Ranks | None:
    """Return the ranks that share a transformer's sequences, None without context parallelism.

    Raises:
        ValueError: when the ranks are not as AdaSpa can use them.
    """
    config = getattr(transformer._parallel_config, "context_parallel_config", None)
    if config is None:
        return None
    check_kind(config)
    check_degree(config.ulysses_degree, family.heads(transformer), uneven=config.ulysses_anything)
    check_plan(transformer, family)
    return Ranks(config._ulysses_mesh.get_group(), uneven=config.ulysses_anything)


def check_plan(transformer: Any, family: "Family") -> None:
    """Raise ValueError if nobody knows how to split the transformer's sequences."""
    if transformer._cp_plan is None and family.plan(transformer) is None:
        raise ValueError(
            f"context parallelism must be off: neither diffusers nor AdaSpa has a plan for {type(transformer).__name__}"
        )
