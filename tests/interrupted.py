"""Denoisings that are ended in their course, and what they leave."""

from collections.abc import Callable

import pytest
from adaspa_jobs.job import JobParams
from adaspa_worker.checkpoint import pack
from adaspa_worker.pipeline import Encoded, Engine


class Stop(Exception):
    """Ends a denoising."""


def stop_at(step: int) -> Callable[[int, str | None], None]:
    """A callback that ends a denoising behind this step."""

    def on_step(done: int, _: str | None) -> None:
        if done == step:
            raise Stop

    return on_step


def interrupted(engine: Engine, params: JobParams, encoded: Encoded, at: int) -> bytes:
    """A checkpoint after this many steps of a denoising that is ended there."""
    with pytest.raises(Stop):
        engine.denoise(params, encoded, stop_at(at))
    snapshot = engine.snapshot()
    assert snapshot is not None
    checkpoint = pack(snapshot, params.model_dump_json())
    engine.reset()
    return checkpoint
