"""The kind of every evaluation in a pipeline's call, seen at the attention's operations and at the scheduler alone."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from adaspa import AdaSpaConfig, StepKind, ops

SEARCHES = ("attention_with_block_mass", "block_mass")


class Evaluations(list[list[str]]):
    """The names of AdaSpa's operations in each evaluation: those between two steps of the scheduler."""

    def kinds(self) -> list[StepKind]:
        """What they come to."""
        return [
            StepKind.SEARCH
            if any(name in SEARCHES for name in names)
            else StepKind.SPARSE
            if "block_sparse_attention" in names
            else StepKind.DENSE
            for names in self
        ]


@contextmanager
def watched(pipe: Any) -> Iterator[Evaluations]:
    """What happens within the block."""
    seen, now = Evaluations(), list[str]()
    transformers = [part for name, part in pipe.components.items() if name.startswith("transformer") and part]
    counters = [part.register_forward_hook(lambda *_: now.append("forward")) for part in transformers]

    def stepped(scheduler: Any) -> None:
        if scheduler is pipe.scheduler:  # LTX-2 has a copy of it for the sound
            assert "forward" in now
            seen.append(now.copy())
            now.clear()

    with pytest.MonkeyPatch.context() as patch:
        for name in (*SEARCHES, "block_sparse_attention"):
            patch.setattr(ops, name, _followed(getattr(ops, name), lambda *_, name=name: now.append(name)))
        scheduler = type(pipe.scheduler)
        patch.setattr(scheduler, "step", _followed(scheduler.step, stepped))
        yield seen
    for counter in counters:
        counter.remove()
    assert not now, "the scheduler steps behind every evaluation"


def _followed(function: Callable[..., Any], then: Callable[..., None]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        then(args[0])
        return result

    call.__signature__ = inspect.signature(function)  # type: ignore[attr-defined] # pipelines look at it
    return call


def scheduled(
    config: AdaSpaConfig, steps: int, first: int = 0, last: int | None = None, order: int = 1
) -> list[StepKind]:
    """What the evaluations from step ``first`` to before ``last`` are to be.

    Second order: two evaluations in each step but the last, of which only one searches. What begins behind the warm-up
    searches first.
    """
    schedule = config.resolve(steps).schedule
    kinds = []
    for step in range(first, steps if last is None else last):
        kind = schedule.kind(step)
        if kind is StepKind.SPARSE and step == first:
            kind = StepKind.SEARCH
        again = StepKind.SPARSE if kind is StepKind.SEARCH else kind
        kinds += [kind, *[again] * (order - 1)]
    return kinds[: len(kinds) - (order - 1)]


def counted(kinds: list[StepKind]) -> dict[str, int]:
    """The steps by kind, as a report has them."""
    return {f"{kind}_steps": kinds.count(kind) for kind in StepKind}
