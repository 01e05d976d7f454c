"""diffusers' step caches on a model's transformers, for one job at a time."""

import inspect
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from adaspa_jobs.step_cache import StepCache
from diffusers import WanVACEPipeline
from diffusers.hooks import FirstBlockCacheConfig, MagCacheConfig, SeaCacheConfig, TaylorSeerCacheConfig

FIRST_SHARE = 0.2
IN_A_ROW = 3
HELD = {"first_block": 3, "mag": 2, "sea": 2, "taylor_seer": 0}
"""Tensors like a block's hidden states that a cache holds for each guidance branch; TaylorSeer's are small."""


def config(cache: StepCache, steps: int, done: int) -> Any:
    """Return the configuration that diffusers takes.

    Args:
        steps: of the job.
        done: of them, those that an earlier attempt has done: the cache begins behind them, and knows of none.
    """
    share = FIRST_SHARE if cache.first_share is None else cache.first_share
    first, in_a_row = max(1, round(share * steps) - done), cache.in_a_row or IN_A_ROW
    match cache.kind:
        case "first_block":
            return FirstBlockCacheConfig(cache.threshold)
        case "sea":
            return SeaCacheConfig(cache.threshold, retention_steps=first, max_consecutive_cached=in_a_row)
        case "taylor_seer":
            return TaylorSeerCacheConfig(
                cache_interval=cache.interval, disable_cache_before_step=first, use_lite_mode=True
            )
    whole = MagCacheConfig(num_inference_steps=steps, mag_ratios=list(cache.ratios or ()))
    return MagCacheConfig(
        cache.threshold,
        max_skip_steps=in_a_row,
        retention_ratio=first / (steps - done),
        num_inference_steps=steps - done,
        mag_ratios=whole.mag_ratios[done:],
    )


@contextmanager
def cached(transformers: Sequence[Any], settings: Any) -> Iterator[None]:
    """Run the transformers with a cache within the block, or without one if ``settings`` is None.

    However the block ends, nothing of the cache is left.
    """
    try:
        if settings is not None:
            for transformer in transformers:
                transformer.enable_cache(settings)
        yield
    finally:
        for transformer in transformers:
            if settings is not None and getattr(transformer, "is_cache_enabled", False):
                transformer.disable_cache()


def check(cache: StepCache, transformers: int, scheduler: type, pipelines: Collection[type]) -> None:
    """Check that a pipeline can run with a cache.

    Args:
        cache: of the catalog entry.
        transformers: how many the pipeline has.
        scheduler: class of its scheduler.
        pipelines: those of its classes that the model's tasks run in.

    Raises:
        ValueError: it cannot; one line.
    """
    order = getattr(scheduler, "order", 1)
    if order > 1:
        raise ValueError(
            f"{scheduler.__name__} calls the transformer {order} times per step, which the cache would count as "
            "steps; allowed: null, or another scheduler"
        )
    if cache.kind == "mag" and transformers > 1:
        raise ValueError("mag counts the steps of one transformer, but the model has two; allowed: other kinds")
    # VACE adds it between its blocks even if a cache skips them, and what the cache kept of them has it already.
    if cache.kind in ("first_block", "mag") and any(issubclass(pipeline, WanVACEPipeline) for pipeline in pipelines):
        raise ValueError(
            f"in the steps that {cache.kind} skips, diffusers 0.42.1 adds the control of Wan VACE a second time; "
            "allowed: taylor_seer"
        )
    for pipeline in pipelines:
        if "cache_context(" not in source_of(pipeline):
            raise ValueError(f"{pipeline.__name__} does not tell the cache its guidance branches; allowed: null")
    # Without the step, sea computes all of them and only logs it.
    untold = sorted(pipeline.__name__ for pipeline in pipelines if '"step_index"' not in source_of(pipeline))
    if cache.kind == "sea" and untold:
        others = ", or only tasks without images" if len(untold) < len(pipelines) else ""
        raise ValueError(f"sea is not told the step by {' or '.join(untold)}; allowed: other kinds{others}")


def source_of(pipeline: type) -> str:
    """Return the source of the module of a pipeline's class."""
    module = inspect.getmodule(pipeline)
    return "" if module is None else inspect.getsource(module)


def check_takes(cache: StepCache, transformers: Sequence[Any]) -> None:
    """Check that loaded transformers take a cache, by putting it in place once.

    Raises:
        ValueError: they do not; one line.
    """
    try:
        with cached(transformers, config(cache, 50, 0)):
            pass
    except (ValueError, AttributeError) as error:
        raise ValueError(f"cache: {cache.kind} does not support this transformer ({error}); allowed: null") from error
