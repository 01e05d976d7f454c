"""What a transformer is given in a job, to hold against what its memory is reckoned of."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from adaspa_jobs.job import JobParams
from adaspa_worker.engines.base import DiffusersEngine
from adaspa_worker.engines.preflight import Preflight

Shapes = dict[str, tuple[int, ...]]


@contextmanager
def given_to(transformer: torch.nn.Module) -> Iterator[Shapes]:
    """Shapes of the tensors that a transformer was given in its first forward, by their names."""
    names, found = list(inspect.signature(transformer.forward).parameters), Shapes()

    def note(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(names, args, strict=False)) | kwargs
        if not found:
            found.update({name: tuple(value.shape) for name, value in given.items() if isinstance(value, torch.Tensor)})

    hook = transformer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield found
    finally:
        hook.remove()


def foreseen(engine: DiffusersEngine, params: JobParams) -> Shapes:
    """Shapes of which a job's memory is reckoned. Raises NotImplementedError, as for families that it is not."""
    flight = Preflight(engine.spec, Path(engine.spec.source), torch.float32)
    flight.peak(params)
    return {name: tuple(value.shape) for name, value in flight.given(params).items() if hasattr(value, "shape")}
